"""Usage: asked for on every stream, hidden from who did not ask, and counted by model and key."""

from __future__ import annotations

import pytest
from lab.parts import eventually

MODEL, ASK = "dial", [{"role": "user", "content": "x"}]
pytestmark = pytest.mark.redis


def tokens(door, direction: str, estimated: str = "false") -> float:
    line = (
        f'aima_gateway_tokens_total{{direction="{direction}",estimated="{estimated}",key="(local)",model="{MODEL}"}} '
    )
    found = [each for each in door.client.get("/metrics").text.splitlines() if each.startswith(line)]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


def test_the_engine_is_always_asked_and_the_client_sees_no_usage_that_it_did_not_ask_for(client, engine, door):
    chunks = list(client.chat.completions.create(model=MODEL, messages=ASK, stream=True))

    assert engine.received[-1].json["stream_options"] == {"include_usage": True}
    assert [each.usage for each in chunks] == [None] * 5
    assert (tokens(door, "input"), tokens(door, "output")) == (7, 5)


def test_a_client_that_asks_gets_it(client, engine):
    options = {"include_usage": True, "continuous": 1}

    chunks = list(client.chat.completions.create(model=MODEL, messages=ASK, stream=True, stream_options=options))

    assert chunks[-1].usage.completion_tokens == 5
    assert engine.received[-1].json["stream_options"] == options


def test_a_client_that_declines_does_not_see_it(client, engine):
    options = {"include_usage": False}

    chunks = list(client.chat.completions.create(model=MODEL, messages=ASK, stream=True, stream_options=options))

    assert (len(chunks), engine.received[-1].json["stream_options"]) == (5, {"include_usage": True})


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["chat/completions", "completions", "messages", "responses"])
def test_the_counted_tokens_are_the_engines_own(door, engine, path, stream):
    engine.plays(tokens=37)
    body = {"model": MODEL, "messages": ASK, "prompt": "x", "input": "x", "max_tokens": 99, "stream": stream}

    for _ in range(4):
        assert door.client.post(f"/v1/{path}", json=body).status_code == 200

    assert (tokens(door, "input"), tokens(door, "output"), tokens(door, "output", "true")) == (28, 148, 0)


def test_a_stream_that_broke_is_estimated_by_its_parts(door, engine):
    engine.plays(tokens=60, cut_after=40)

    door.client.post("/v1/chat/completions", json={"model": MODEL, "messages": ASK, "stream": True})

    assert eventually(lambda: tokens(door, "output", "true") == 40)
    assert tokens(door, "output") == 0
