"""llama.cpp behind a gateway: clients that leave free its slots, its death ends a stream, its tokens are counted."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from engines.conftest import Running, Starter
from lab.gateways import Fleet, RunningGateway, gateway
from lab.parts import eventually

from aima_core.redis.connection import RedisClient

MODEL = "smollm2-135m"
LONG: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Write a very long story about a river."}],
    "max_tokens": 1800,
}
FREED_WITHIN = timedelta(seconds=60)
"""On a busy machine; what it has made by then tells whether it was interrupted."""
POLL_INTERVAL = timedelta(seconds=3)
"""llama.cpp looks for a closed connection after a second without any result, also of a request for metrics."""
pytestmark = [pytest.mark.slow, pytest.mark.redis]


@pytest.fixture
def model(natively: Starter) -> Running:
    return natively("llamacpp-smollm2-cpu")


@pytest.fixture
def door(model: Running, redis_url: str, redis: RedisClient) -> Iterator[RunningGateway]:
    Fleet(redis).serves(model, f"svc-llamacpp-{MODEL}@alpha")
    with gateway(redis_url) as running:
        running.knows(MODEL)
        yield running


@pytest.fixture
def application(door: RunningGateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{door.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


def measured(text: bytes | str, name: str) -> float:
    """The sum of a metric over its labels."""
    lines = text.decode() if isinstance(text, bytes) else text
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", lines, re.MULTILINE))


def is_busy(model: Running) -> bool:
    return measured(model.ask("/metrics"), "llamacpp:requests_processing") > 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(model: Running, door: RunningGateway, stream: bool) -> None:
    body = json.dumps({**LONG, "stream": stream}).encode()
    parts = urlsplit(door.url)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((str(parts.hostname), int(parts.port or 0))) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert not stream or client.recv(1)
        assert eventually(lambda: is_busy(model))

    assert eventually(lambda: not is_busy(model), within=FREED_WITHIN, every=POLL_INTERVAL)
    assert measured(model.ask("/metrics"), "llamacpp:tokens_predicted_total") < LONG["max_tokens"] / 2
    assert eventually(lambda: door.in_flight == 0)


def test_its_death_in_a_stream_is_an_error_and_no_end(
    model: Running, door: RunningGateway, application: openai.OpenAI
) -> None:
    with door.client.stream("POST", "/v1/chat/completions", json={**LONG, "stream": True}) as answer:
        received = answer.iter_raw()
        text = next(received)
        model.runtime.remove(model.name, grace=timedelta(0))
        text += b"".join(received)

    last = text.strip().split(b"\n\n")[-1]
    assert b"[DONE]" not in text
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "engine_broke"
    with pytest.raises(openai.APIStatusError) as refused:
        application.chat.completions.create(**LONG)
    assert refused.value.status_code in (502, 503)


def test_its_tokens_are_counted_as_it_counts_them(
    model: Running, door: RunningGateway, application: openai.OpenAI
) -> None:
    for stream in (True, False, True):
        answer = application.chat.completions.create(**{**LONG, "max_tokens": 20}, stream=stream)
        if stream:
            assert list(answer)

    counted = [line for line in door.client.get("/metrics").text.splitlines() if 'direction="output"' in line]
    assert measured("\n".join(counted), "aima_gateway_tokens_total") == 60
    assert measured(model.ask("/metrics"), "llamacpp:tokens_predicted_total") == 60
