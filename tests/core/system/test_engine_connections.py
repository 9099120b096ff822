"""Requests to engines over connections that are kept, against a server that answers with given bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from aima_core.system import engine_connections
from aima_core.system.engine_connections import (
    MAX_ANSWER_HEAD,
    MAX_BUFFERED,
    AnswerBroken,
    EngineConnections,
    EngineDisconnected,
    EngineNotReached,
    EngineRequestFailed,
    RequestMalformed,
    StreamedBody,
)

PATIENCE = 30
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwords"
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nwor\r\n2\r\nds\r\n0\r\n\r\n"
CLOSED_AT_THE_END = b"HTTP/1.1 200 OK\r\n\r\nwords"


class Engine:
    """Answers each request with the next bytes; None ends the connection."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.connections: list[asyncio.StreamWriter] = []
        self.heads: list[bytes] = []
        self.ended = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        try:
            while self.answers:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                if (answer := self.answers.pop(0)) is None:
                    break
                writer.write(answer)
                await writer.drain()
                if answer is CLOSED_AT_THE_END:
                    break
            else:
                await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.ended.set()
            writer.close()


@asynccontextmanager
async def engine_and_client(*answers: bytes | None) -> AsyncIterator[tuple[Engine, EngineConnections]]:
    engine = Engine(*answers)
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    engine.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/path?query"
    client = EngineConnections(connect=timedelta(seconds=5))
    try:
        yield engine, client
    finally:
        await client.aclose()
        server.close()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(PATIENCE):
            await test()

    asyncio.run(limited())


async def eventually(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 the facts have no event; `run` limits the time
        await asyncio.sleep(0.005)


async def whole(read: Callable[[], Awaitable[bytes]]) -> bytes:
    parts = []
    while part := await read():
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    ("url", "header"),
    [("http://[::1", b"x"), ("http://127.0.0.1:1/a b", b"x"), ("http://127.0.0.1:1/", b"x\r\nX-Other: y")],
    ids=["host", "path", "header"],
)
def test_a_malformed_request_is_an_error_of_the_client_and_is_not_sent(url: str, header: bytes) -> None:
    async def test() -> None:
        client = EngineConnections(connect=timedelta(seconds=1))
        with pytest.raises(RequestMalformed):
            await client.request("GET", url, [(b"x-own", header)])
        await client.aclose()

    run(test)


def test_an_engine_that_does_not_listen_is_an_error_without_its_address() -> None:
    async def test() -> None:
        async with engine_and_client() as (engine, client):
            pass
        with pytest.raises(EngineNotReached, match=r"^it accepts no connection$"):
            await client.request("GET", engine.url, [])

    run(test)


@pytest.mark.parametrize("answer", [LENGTH, CHUNKS])
def test_a_connection_is_kept_for_the_next_request(answer: bytes) -> None:
    async def test() -> None:
        async with engine_and_client(answer, answer) as (engine, client):
            for _ in range(2):
                received = await client.request("POST", engine.url, [(b"x-own", b"1")], b"body")
                assert (received.status, received.reason) == (200, "OK")
                assert await whole(received.read) == b"words"
            assert len(engine.connections) == 1
            assert engine.heads[0].startswith(b"POST /path?query HTTP/1.1\r\nHost: 127.0.0.1:")
            assert b"\r\nx-own: 1\r\ncontent-length: 4\r\n" in engine.heads[0]

    run(test)


def test_an_idle_connection_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_connections, "KEEP_ALIVE", timedelta(milliseconds=20))

    async def test() -> None:
        async with engine_and_client(LENGTH, LENGTH) as (engine, client):
            await whole((await client.request("GET", engine.url, [])).read)
            await engine.ended.wait()

    run(test)


def test_parts_that_arrive_before_they_are_read_are_kept_while_the_connection_serves_the_next_request() -> None:
    async def test() -> None:
        async with engine_and_client(LENGTH, CHUNKS) as (engine, client):
            first = await client.request("GET", engine.url, [])
            second = await client.request("GET", engine.url, [])
            first.close()
            assert await whole(first.read) == b"words"
            assert await whole(second.read) == b"words"

    run(test)


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (CLOSED_AT_THE_END, b"words"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + LENGTH, b"words"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTrailer: x\r\n\r\n", b""),
    ],
    ids=["without a length", "informational", "without a body", "trailer"],
)
def test_each_framing_of_a_body_is_understood(answer: bytes, body: bytes) -> None:
    async def test() -> None:
        async with engine_and_client(answer) as (engine, client):
            received = await client.request("GET", engine.url, [])
            assert received.status in (200, 204)
            assert b"link" not in dict(received.headers)
            assert await whole(received.read) == body

    run(test)


def test_an_answer_to_head_has_no_body_and_ends_its_connection() -> None:
    async def test() -> None:
        async with engine_and_client(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", LENGTH) as (engine, client):
            received = await client.request("HEAD", engine.url, [])
            assert dict(received.headers)[b"content-length"] == b"5"
            assert await received.read() == b""
            await whole((await client.request("GET", engine.url, [])).read)
            assert len(engine.connections) == 2

    run(test)


def test_a_connection_that_closes_without_an_answer_is_told_apart() -> None:
    async def test() -> None:
        async with engine_and_client(None) as (engine, client):
            with pytest.raises(EngineDisconnected):
                await client.request("GET", engine.url, [])

    run(test)


@pytest.mark.parametrize("answer", [LENGTH[:-1], CHUNKS[:-5], CHUNKS[:-2]])
def test_a_body_that_ends_early_never_looks_complete(answer: bytes) -> None:
    async def test() -> None:
        async with engine_and_client(answer, None) as (engine, client):
            received = await client.request("GET", engine.url, [])
            assert await received.read()
            for connection in engine.connections:
                connection.close()
            with pytest.raises(AnswerBroken, match=r"^its answer ended early$"):
                await whole(received.read)

    run(test)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTP/1.1 200 OK\r\n\r\n", "its answer is malformed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "its answer is malformed"),
        (b"HTTP/1.1 200 OK\r\nX-Own: a\x00b\r\n\r\n", "its answer is malformed"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "another protocol"),
        (b"HTTP/1.1 200 OK\r\nX-Own: " + b"a" * 2 * MAX_ANSWER_HEAD, "head larger than 64 KiB"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * MAX_ANSWER_HEAD, "head larger than 64 KiB"),
    ],
    ids=["no HTTP", "two lengths", "NUL", "upgrade", "endless head", "endless heads"],
)
def test_a_malformed_answer_is_refused(answer: bytes, why: str) -> None:
    async def test() -> None:
        async with engine_and_client(answer) as (engine, client):
            with pytest.raises(AnswerBroken, match=why):
                await client.request("GET", engine.url, [])

    run(test)


def test_a_malformed_body_is_refused() -> None:
    async def test() -> None:
        async with engine_and_client(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n") as (
            engine,
            client,
        ):
            with pytest.raises(AnswerBroken, match="malformed"):
                await whole((await client.request("GET", engine.url, [])).read)

    run(test)


@pytest.mark.parametrize("more", [LENGTH, b"garbage"])
def test_bytes_after_an_answer_end_its_connection(more: bytes) -> None:
    async def test() -> None:
        async with engine_and_client(LENGTH + more, LENGTH) as (engine, client):
            for _ in range(2):
                assert await whole((await client.request("GET", engine.url, [])).read) == b"words"
            assert len(engine.connections) == 2

    run(test)


def test_the_parts_of_an_answer_are_delivered_until_its_end() -> None:
    async def test() -> None:
        async with engine_and_client(CHUNKS) as (engine, client):
            answer, parts = await client.request("GET", engine.url, []), []

            def take(part: bytes) -> bool:
                parts.append(part)
                return True

            assert await answer.deliver(take)
            assert b"".join(parts) == b"words"

    run(test)


def test_a_receiver_that_takes_no_more_pauses_the_connection_until_it_goes_on() -> None:
    size = 64 * MAX_BUFFERED
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size

    async def test() -> None:
        async with engine_and_client(head + bytes(size)) as (engine, client):
            answer, taken = await client.request("GET", engine.url, []), []

            def take(part: bytes) -> bool:
                taken.append(len(part))
                return False

            turns = 0
            while not await answer.deliver(take):
                turns += 1
                await eventually(lambda: answer.is_paused or sum(taken) + answer.buffered == size)
                assert answer.buffered < 8 * MAX_BUFFERED
            assert sum(taken) == size
            assert turns > 2

    run(test)


@pytest.mark.parametrize("answer", [LENGTH[:-1], CHUNKS[:-5]])
def test_a_delivery_that_ends_early_fails(answer: bytes) -> None:
    async def test() -> None:
        async with engine_and_client(answer, None) as (engine, client):
            received = await client.request("GET", engine.url, [])

            def take(part: bytes) -> bool:
                engine.connections[0].close()
                return bool(part)

            with pytest.raises(AnswerBroken):
                await received.deliver(take)

    run(test)


def test_what_a_receiver_raises_reaches_who_waits_for_the_delivery() -> None:
    async def test() -> None:
        async with engine_and_client(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", None) as (engine, client):
            answer = await client.request("GET", engine.url, [])
            engine.connections[0].write(b"wor")

            def refuse(part: bytes) -> bool:
                raise KeyError(part)

            with pytest.raises(KeyError):
                await answer.deliver(refuse)
            answer.close()
            await engine.ended.wait()

    run(test)


def test_a_cancelled_delivery_takes_nothing_more() -> None:
    async def test() -> None:
        async with engine_and_client(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", LENGTH) as (engine, client):
            answer, taken = await client.request("GET", engine.url, []), []
            delivery = asyncio.create_task(answer.deliver(lambda part: bool(taken.append(part)) or True))
            await asyncio.sleep(0)
            delivery.cancel()
            with pytest.raises(asyncio.CancelledError):
                await delivery
            engine.connections[0].write(b"words")
            await eventually(lambda: answer.buffered == 5)
            assert not taken

    run(test)


def test_a_closed_answer_ends_the_engines_work() -> None:
    async def test() -> None:
        async with engine_and_client(LENGTH[:-1]) as (engine, client):
            (await client.request("GET", engine.url, [])).close()
            await engine.ended.wait()

    run(test)


def test_a_request_that_breaks_off_is_never_taken_for_a_whole_one() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"first"
        raise ConnectionResetError

    async def test() -> None:
        async with engine_and_client(b"", None) as (engine, client):
            with pytest.raises(EngineRequestFailed):
                await client.request("POST", engine.url, [], StreamedBody(broken(), None))
            await engine.ended.wait()

    run(test)
