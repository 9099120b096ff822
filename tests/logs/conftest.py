"""A host on a fake runtime, an API node in front of it, and Redis between them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from api.node import Node, api_node
from logs.desk import CountingRuntime, Desk, a_desk


@pytest.fixture
def runtime() -> CountingRuntime:
    return CountingRuntime()


@pytest.fixture
def desk(redis_url: str, runtime: CountingRuntime) -> Iterator[Desk]:
    with a_desk(redis_url, runtime) as desk:
        yield desk


@pytest.fixture
def node(redis_url: str) -> Iterator[Node]:
    with api_node(redis_url) as node:
        yield node
