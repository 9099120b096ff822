"""Lookups of keys: requests that wait for the same key share one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from threading import Event, Semaphore
from typing import Any, cast

import pytest

from aima_api.access.keys import ApiKey, KeyCache
from aima_api.http.callers import LOOKUP_THREADS, KeyLookup
from aima_core.errors import Unauthorized

KEY = ApiKey(id="k1", name="app", scopes=(), created_at=datetime.now(UTC), created_by="test")


class SlowCache:
    """Answers a lookup once it is released; `digests` has those that have begun."""

    def __init__(self) -> None:
        self.digests: list[str] = []
        self.began = Semaphore(0)
        self.released = Event()
        self.failure: Exception | None = None

    def confirmed(self, _: str) -> None:
        return None

    def check(self, digest: str) -> ApiKey:
        self.digests.append(digest)
        self.began.release()
        assert self.released.wait(30)
        if self.failure is not None:
            raise self.failure
        return KEY


def lookup_with(cache: SlowCache) -> KeyLookup:
    return KeyLookup(cast(KeyCache, cache))


async def begun(requests: int, ask: Callable[[], Awaitable[ApiKey]]) -> list[asyncio.Task[Any]]:
    """Requests that wait for their lookup."""
    tasks = [asyncio.ensure_future(ask()) for _ in range(requests)]
    await asyncio.sleep(0)
    return tasks


def test_requests_that_wait_for_the_same_key_share_its_lookup() -> None:
    cache = SlowCache()

    async def test() -> None:
        lookup = lookup_with(cache)
        waiting = await begun(5, lambda: lookup.confirm("a"))
        other = await begun(1, lambda: lookup.confirm("b"))
        cache.released.set()
        assert await asyncio.gather(*waiting, *other) == [KEY] * 6
        assert sorted(cache.digests) == ["a", "b"]
        await lookup.confirm("a")
        assert sorted(cache.digests) == ["a", "a", "b"], "an ended lookup confirms no later request"

    asyncio.run(test())


def test_a_revoked_key_is_refused_to_all_that_wait() -> None:
    cache = SlowCache()
    cache.failure = Unauthorized(what="a revoked one")

    async def test() -> None:
        lookup = lookup_with(cache)
        waiting = await begun(3, lambda: lookup.find("a", address="192.0.2.1"))
        cache.released.set()
        for each in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(each, Unauthorized)

    asyncio.run(test())
    assert cache.digests == ["a"]


def test_a_request_that_leaves_disturbs_no_other() -> None:
    cache = SlowCache()

    async def test() -> None:
        lookup = lookup_with(cache)
        leaving, staying = await begun(2, lambda: lookup.confirm("a"))
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        cache.released.set()
        assert await staying == KEY

    asyncio.run(test())


def test_a_lookup_that_nobody_waits_for_any_more_does_not_begin() -> None:
    """Else clients that send wrong keys and leave would queue lookups without a limit."""
    cache = SlowCache()

    async def test() -> None:
        lookup = lookup_with(cache)
        busy = []
        for number in range(LOOKUP_THREADS):
            busy += await begun(1, partial(lookup.confirm, f"busy-{number}"))
            assert await asyncio.to_thread(cache.began.acquire, timeout=30)
        (left,) = await begun(1, lambda: lookup.confirm("left"))
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        cache.released.set()
        await asyncio.gather(*busy)
        assert await lookup.confirm("later") == KEY
        assert "left" not in cache.digests

    asyncio.run(test())
