"""What there is in Redis, in numbers: read in one round trip, whatever there is of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

from aima_core.errors import TooManyOperations
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis

COUNTS_EVERY = timedelta(seconds=1)


class RedisStats(NamedTuple):
    active: int
    """Operations that have not ended."""
    waiting: int
    """Those of them that wait for a host with room."""
    hosts: int
    live: int
    drained: int
    dropped: dict[str, int]
    """Messages that made no sense, by the host that met them; 0 for one that met none of late."""


def redis_stats(redis: TextRedis) -> RedisStats:
    """Raises BrokerUnavailable within seconds."""
    with redis.pipeline(transaction=False) as pipe:
        pipe.zcard(keys.ACTIVE)
        pipe.zcard(keys.WAITING)
        pipe.hlen(keys.HOSTS)
        pipe.hlen(keys.DRAINED)
        pipe.hgetall(keys.DROPPED)
        pipe.zrange(keys.HOSTS_SEEN, 0, -1, withscores=True)
        pipe.time()
        active, waiting, hosts, drained, dropped, seen, (seconds, _) = pipe.execute()
    live = sum(at > seconds - keys.HOST_DEAD.total_seconds() for _, at in seen)
    by_host = {host: int(dropped.get(host, 0)) for host, _ in seen}
    return RedisStats(active, waiting, hosts, live=live, drained=drained, dropped=by_host)


class BacklogLimit:
    """How many starts and pulls may be put down beside those that have not ended, near enough.

    Counted in Redis now and then, and by this node's own in between: a bound on floods need not cost each start a
    round trip. Stops are never counted: they make the number smaller.
    """

    def __init__(self, redis: TextRedis, *, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._most = most
        self._clock = clock
        self._active = 0
        self._count_again_at = float("-inf")

    def reserve(self, number: int) -> None:
        """Raises TooManyOperations, BrokerUnavailable."""
        if (now := self._clock()) >= self._count_again_at:
            self._active = self._redis.zcard(keys.ACTIVE)
            self._count_again_at = now + COUNTS_EVERY.total_seconds()
        if self._active + number > self._most:
            raise TooManyOperations(active=self._active, most=self._most)
        self._active += number
