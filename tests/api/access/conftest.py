"""An API node with a key in its settings, and a store of keys beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from api.access.guarded import Guarded, guarded_node
from lab.commands import SIGNING_KEY

from aima_api.access.keys import KeyStore
from aima_core.redis.interface import TextRedis
from aima_core.trust.keys import KeyRing, SigningKey


@pytest.fixture
def guarded(redis_url: str) -> Iterator[Guarded]:
    with guarded_node(redis_url) as node:
        yield node


@pytest.fixture
def store(redis: TextRedis) -> KeyStore:
    return KeyStore(redis, KeyRing([SigningKey(SIGNING_KEY).public]))
