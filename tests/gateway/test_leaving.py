"""Clients that leave: the engine stops working, and no count leaks."""

from __future__ import annotations

import asyncio
import json
import random

import pytest
from lab.gateways import gateway
from lab.parts import eventually

BODY = {"model": "dial", "messages": [{"role": "user", "content": "x"}]}
pytestmark = pytest.mark.redis


def request_of(running, *, stream: bool, path: str = "/v1/chat/completions") -> bytes:
    body = json.dumps(BODY | {"stream": stream}).encode()
    host = running.url.removeprefix("http://")
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def abort_after(running, request: bytes, received: int) -> None:
    """Sends a request, and leaves after so many bytes of its answer; after fewer bytes of the request if negative."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(running.url.rpartition(":")[2]))
    try:
        writer.write(request[:received] if received < 0 else request)
        await writer.drain()
        if received > 0:
            await reader.readexactly(received)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_a_client_that_leaves_before_the_headers_ends_the_engines_work(door, engine, stream, path):
    engine.plays(silent_before_headers=True)

    async def leave():
        leaving = asyncio.create_task(abort_after(door, request_of(door, stream=stream, path=path), 100_000))
        assert await asyncio.to_thread(eventually, lambda: engine.busy == 1)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)

    asyncio.run(leave())

    assert eventually(lambda: engine.busy == 0)
    assert eventually(lambda: door.in_flight == 0)
    assert engine.aborted


def test_a_client_that_leaves_a_stream_ends_the_engines_work(door, engine):
    engine.plays(tokens=1_000_000, delay=0.001)

    asyncio.run(abort_after(door, request_of(door, stream=True), 3000))

    assert eventually(lambda: engine.busy == 0)
    assert eventually(lambda: door.in_flight == 0)
    assert 'outcome="aborted"' not in (metrics := door.client.get("/metrics").text)
    assert 'aima_gateway_aborted_total{instance="svc-tiny-dial@alpha",model="dial"}' in metrics


def test_a_client_that_reads_nothing_pauses_the_engine_and_then_gets_all_of_its_stream(door, engine):
    tokens, token = 600, "x" * 100_000
    engine.plays(tokens=tokens, token=token)

    async def read_late() -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(door.url.rpartition(":")[2]))
        writer.write(request_of(door, stream=True))
        assert await asyncio.to_thread(eventually, lambda: any(each.is_paused for each in door.engine_connections))
        assert engine.tokens_sent < tokens
        size, last = 0, b""
        while b"[DONE]" not in last and (part := await reader.read(1 << 20)):
            size, last = size + part.count(b"x"), last[-20:] + part[-100:]
        writer.close()
        return size, last

    size, last = asyncio.run(read_late())

    assert b"[DONE]" in last
    assert tokens * len(token) <= size < tokens * len(token) * 1.01
    assert eventually(lambda: door.in_flight == 0)


def test_a_client_that_leaves_while_it_waits_frees_its_place(redis_url, fleet, engine):
    engine.plays(silent_before_headers=True)
    fleet.serves(engine)
    with gateway(redis_url, running=1) as running:

        async def leave():
            request, waiting = request_of(running, stream=True), lambda: running.server.balancer.waiting
            served = asyncio.create_task(abort_after(running, request, 100_000))
            assert await asyncio.to_thread(eventually, lambda: engine.received)
            leaving = [asyncio.create_task(abort_after(running, request, 100_000)) for _ in range(2)]
            assert await asyncio.to_thread(eventually, lambda: waiting() == 2)
            for each in leaving:
                each.cancel()
            assert await asyncio.to_thread(eventually, lambda: waiting() == 0)
            served.cancel()
            await asyncio.gather(served, *leaving, return_exceptions=True)

        asyncio.run(leave())

        assert eventually(lambda: running.in_flight == len(running.server.exchanges) == engine.busy == 0)
        assert len(engine.received) == 1


@pytest.mark.parametrize("aborts", [60, pytest.param(1000, marks=pytest.mark.long)])
def test_the_engine_is_idle_again_after_aborts_at_random_bytes(door, engine, aborts):
    engine.plays(tokens=50, delay=0.001)
    chance = random.Random(15)
    requests = [request_of(door, stream=stream) for stream in (True, False)]

    async def abort_all():
        at_once = asyncio.Semaphore(50)

        async def abort_one():
            async with at_once:
                await abort_after(door, chance.choice(requests), chance.randrange(-150, 9000))

        await asyncio.gather(*(abort_one() for _ in range(aborts)))

    asyncio.run(abort_all())

    assert eventually(lambda: engine.busy == 0)
    assert eventually(lambda: door.in_flight == len(door.server.exchanges) == 0)
    assert door.client.post("/v1/chat/completions", json=BODY).status_code == 200
