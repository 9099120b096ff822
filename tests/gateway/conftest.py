"""A gateway with one scripted engine, and the official clients."""

from __future__ import annotations

import anthropic
import openai
import pytest
from lab.gateways import Fleet, gateway
from lab.scripted_engine import engine_thread

MODEL = "dial"
UNUSED = {"api_key": "unused", "max_retries": 0}


@pytest.fixture(scope="module")
def engines():
    with engine_thread() as running:
        yield running


@pytest.fixture(scope="module")
def _engine(engines):
    return engines.engine()


@pytest.fixture
def engine(_engine):
    """Answers with five tokens, until a test scripts it."""
    _engine.plays()
    _engine.received.clear()
    return _engine


@pytest.fixture
def fleet(redis):
    return Fleet(redis)


@pytest.fixture
def door(redis_url, fleet, engine):
    """A gateway before that engine."""
    fleet.serves(engine)
    with gateway(redis_url) as running:
        yield running


@pytest.fixture
def client(door):
    without_tls = openai.DefaultHttpxClient(verify=False)  # a context costs 50 ms
    with openai.OpenAI(base_url=f"{door.url}/v1", http_client=without_tls, **UNUSED) as made:
        yield made


@pytest.fixture
def claude(door):
    without_tls = anthropic.DefaultHttpxClient(verify=False)
    with anthropic.Anthropic(base_url=door.url, http_client=without_tls, **UNUSED) as made:
        yield made
