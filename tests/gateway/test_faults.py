"""The fault matrix: engines that cut off, end early, fall silent, break a line, refuse, or close before they answer."""

from __future__ import annotations

import asyncio
import json
import time

import anthropic
import openai
import pytest
from gateway.test_leaving import request_of
from lab.gateways import gateway
from lab.parts import eventually
from lab.scripted_engine import engine_thread

from aima_api.gateway import balancer
from aima_api.gateway.inference import Inference
from aima_api.gateway.streams import EventRelay

MODEL, ASK = "dial", [{"role": "user", "content": "How are you?"}]
STREAM = {"model": MODEL, "messages": ASK, "stream": True}
pytestmark = pytest.mark.redis


@pytest.fixture
def impatient(redis_url, fleet, engine):
    """A gateway that waits shortly for the next part of a stream."""
    fleet.serves(engine)
    with gateway(redis_url, silence="500ms") as running:
        yield running


def streamed(running, **more):
    with running.client.stream("POST", "/v1/chat/completions", json=STREAM | more) as answer:
        return answer.status_code, b"".join(answer.iter_raw())


def error_in(text: bytes):
    """The error of the last event of a stream."""
    last = text.strip().split(b"\n\n")[-1]
    return json.loads(last.partition(b"data: ")[2])["error"]


@pytest.mark.parametrize("fault", ["cut_after", "end_after"])
def test_an_engine_that_ends_after_40_of_60_tokens_gives_an_error_and_no_done(door, engine, fault):
    engine.plays(tokens=60, **{fault: 40})

    status, text = streamed(door)

    assert (status, text.count(b"data: "), b"[DONE]" in text) == (200, 41, False)
    assert error_in(text)["code"] == "engine_broke"


def test_the_time_in_which_a_client_reads_nothing_is_not_silence_of_the_engine(impatient, engine):
    """Once it reads on, the engine's silence counts again."""
    tokens, token = 400, "x" * 100_000
    engine.plays(tokens=600, silent_after=tokens, token=token)

    async def read_late() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(impatient.url.rpartition(":")[2]))
        writer.write(request_of(impatient, stream=True))
        resumed_at = time.monotonic()

        def has_paused_for_long() -> bool:
            nonlocal resumed_at
            if not any(each.is_paused for each in impatient.engine_connections):
                resumed_at = time.monotonic()  # the buffers up to the client are not yet full
            return time.monotonic() - resumed_at > 1.2

        assert await asyncio.to_thread(eventually, has_paused_for_long)
        text = bytearray()
        while b'"error"' not in text[-1000:] and (part := await reader.read(1 << 20)):
            text += part
        writer.close()
        return bytes(text)

    text = asyncio.run(read_late())

    assert tokens * len(token) <= text.count(b"x") < tokens * len(token) * 1.01
    assert b"engine_timeout" in text[-1000:]
    assert eventually(lambda: engine.busy == impatient.in_flight == 0)


def test_an_engine_that_falls_silent_after_20_tokens_gives_an_error(impatient, engine):
    engine.plays(tokens=60, silent_after=20)

    _, text = streamed(impatient)

    assert (text.count(b"data: "), b"[DONE]" in text) == (21, False)
    assert error_in(text)["code"] == "engine_timeout"
    assert eventually(lambda: engine.busy == 0)


def test_a_broken_line_passes_as_it_is_and_the_stream_goes_on(door, engine):
    engine.plays(tokens=10, broken_line_at=4)

    _, text = streamed(door)

    assert b'data: {"choices": [{"delta": {"conte\n\n' in text
    assert text.endswith(b"data: [DONE]\n\n")


def test_a_stream_that_breaks_within_a_line_ends_with_a_whole_error_event(door, engine):
    engine.plays(tokens=3, cut_after=2, split=7)

    _, text = streamed(door)

    events = text.strip().split(b"\n\n")
    assert all(json.loads(event.removeprefix(b"data: ")) for event in events)
    assert error_in(text)["code"] == "engine_broke"


def test_clients_raise_the_error_in_a_stream(client, claude, engine):
    engine.plays(tokens=9, cut_after=5)

    with pytest.raises(openai.APIError, match="did not complete its answer"):
        list(client.chat.completions.create(**STREAM))
    with pytest.raises(openai.APIError, match="did not complete its answer"):
        list(client.responses.create(model=MODEL, input="x", stream=True))
    with pytest.raises(anthropic.APIError), claude.messages.stream(model=MODEL, max_tokens=5, messages=ASK) as stream:
        list(stream)


def test_an_engine_that_is_alone_and_closes_before_its_headers_is_asked_once_more(door, engine):
    engine.plays(close_before_headers=True)

    status, text = streamed(door)

    assert (status, json.loads(text)["error"]["code"]) == (502, "engine_broke")
    assert len(engine.received) == 2


def test_an_engine_that_sends_no_headers_is_given_up(redis_url, fleet, engine):
    engine.plays(silent_before_headers=True)
    fleet.serves(engine)

    with gateway(redis_url, first_byte="500ms") as running:
        status, text = streamed(running)

    assert (status, json.loads(text)["error"]["code"]) == (504, "engine_timeout")
    assert eventually(lambda: engine.busy == 0)


def test_an_answer_that_is_cut_off_is_no_answer(door, engine):
    engine.plays(cut_after=1)

    answer = door.client.post("/v1/chat/completions", json=STREAM | {"stream": False})

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine_broke")


@pytest.mark.parametrize("token", ["x" * 300_000, 'é\\n\\u0000 [DONE] data: "usage":{', "\U0001f600" * 1000])
def test_large_and_odd_tokens_pass(client, engine, token):
    engine.plays(tokens=3, token=token)

    chunks = list(client.chat.completions.create(**STREAM))

    assert [each.choices[0].delta.content for each in chunks] == [token] * 3


@pytest.mark.parametrize("split", [1, 3, 1000])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_events_pass_whole_however_they_arrive(client, engine, split, line_end):
    engine.plays(tokens=4, split=split, line_end=line_end)

    chunks = list(client.chat.completions.create(**STREAM))

    assert [each.choices[0].delta.content for each in chunks] == ["word "] * 4


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_events_that_arrive_byte_by_byte_pass_whole_and_end_their_stream(line_end):
    stream = line_end.join([b'data: {"choices": []}', b"", b"data: [DONE]", b"", b""])
    relay = EventRelay(Inference.CHAT, hides_usage=False, rename=None)

    blocks = [relay.feed(bytes([each])) for each in stream]

    assert b"".join(blocks) == stream
    assert len([each for each in blocks if each]) == 2
    assert relay.ended


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500])
def test_an_error_of_the_engine_passes_with_its_status(door, engine, status):
    engine.plays(status=status)

    answer = door.client.post("/v1/chat/completions", json=STREAM)

    assert (answer.status_code, answer.json()["error"]["message"]) == (status, "scripted")
    assert len(engine.received) == 1


def test_an_error_in_another_shape_is_put_into_that_of_the_api(door, engine):
    engine.plays(status=400, error={"object": "error", "message": "too long"})

    openai_s = door.client.post("/v1/chat/completions", json=STREAM).json()
    anthropic_s = door.client.post("/v1/messages", json=STREAM).json()

    assert (openai_s["error"]["message"], openai_s["error"]["code"]) == ("too long", "engine_error")
    assert (anthropic_s["type"], anthropic_s["error"]["type"]) == ("error", "invalid_request_error")


def test_an_engine_that_refuses_the_gateway_does_not_blame_the_clients_key(door, engine):
    engine.plays(status=401)

    assert door.client.post("/v1/chat/completions", json=STREAM).status_code == 502


@pytest.fixture
def two(redis_url, fleet):
    """Two engines, of which the first gets the first request, and their gateway."""
    with engine_thread() as engines:
        one, other = engines.engine("one"), engines.engine("other")
        fleet.serves(one, "svc-tiny-dial@alpha")
        fleet.serves(other, "svc-tiny-dial@beta")
        with gateway(redis_url) as running:
            yield engines, one, other, running


FAULTS = [{"close_before_headers": True}, {"status": 503}, {"cut_after": 0}, {"end_after": 0}]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_request_goes_elsewhere_until_the_first_byte_and_the_instance_is_left_out(two, fault, monkeypatch):
    monkeypatch.setattr(balancer, "FIRST_COOL_DOWN", balancer.LONGEST_COOL_DOWN)  # lasts until the second request
    _, one, other, running = two
    one.plays(**fault)

    answers = [streamed(running) for _ in range(2)]

    assert [(status, text.endswith(b"data: [DONE]\n\n")) for status, text in answers] == [(200, True)] * 2
    assert (len(one.received), len(other.received)) == (1, 2)


def test_a_stream_that_has_begun_is_never_sent_again(two):
    _, one, other, running = two
    one.plays(tokens=9, cut_after=5)

    _, text = streamed(running)

    assert error_in(text)["code"] == "engine_broke"
    assert (len(one.received), len(other.received)) == (1, 0)


def test_a_client_learns_nothing_of_the_address_of_an_engine(two):
    engines, *both, running = two
    for each in both:
        engines.kill(each)

    status, text = streamed(running)

    assert (status, json.loads(text)["error"]["code"]) == (502, "engine_broke")
    assert b"it accepts no connection" in text
    assert not [each for each in both if each.url.rpartition(":")[2].encode() in text]


def test_killed_engines_fail_no_request_before_its_first_byte(two):
    engines, *both, running = two
    statuses = []
    for number in range(20):
        victim = both[number % 2]
        engines.kill(victim)
        statuses += [streamed(running)[0] for _ in range(3)]
        engines.restart(victim)
        for backend in running.server.table.backends:
            backend.succeeded(running.server.balancer.clock())

    assert statuses == [200] * 60
