"""An API node on an empty Redis, and a scripted worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from api.node import Node, ScriptedWorker, api_node

from aima_core.redis.interface import TextRedis


@pytest.fixture
def node(redis_url: str) -> Iterator[Node]:
    with api_node(redis_url) as node:
        yield node


@pytest.fixture
def worker(redis: TextRedis) -> ScriptedWorker:
    """A live worker that subscribes to cpu.amd64."""
    return ScriptedWorker(redis)
