"""Distributed locks in Redis, one per service, so that two API nodes never place replicas from the same snapshot.

A lock expires after its TTL, so the crash of its holder blocks other nodes for no longer than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta

from redis.exceptions import LockError

from aima_core.domain.ids import ServiceId
from aima_core.redis import keys
from aima_core.redis.interface import TextLock, TextRedis

LOCK_TTL = timedelta(seconds=2)
ACQUIRE_TIMEOUT = LOCK_TTL + timedelta(seconds=0.5)
POLL_INTERVAL = timedelta(milliseconds=20)


class PlacementLocks:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis

    @contextmanager
    def holding(self, services: Iterable[ServiceId]) -> Iterator[None]:
        """Holds the locks of these services, acquired in one order everywhere, so that no two nodes deadlock.

        A lock that is not acquired in time is done without: a replica too many is better than a refused start.
        """
        with ExitStack() as acquired:
            for service in sorted(services):
                lock = self._redis.lock(
                    keys.turn(service),
                    timeout=LOCK_TTL.total_seconds(),
                    sleep=POLL_INTERVAL.total_seconds(),
                    blocking_timeout=ACQUIRE_TIMEOUT.total_seconds(),
                )
                lock.acquire()
                acquired.callback(_release, lock)
            yield


def _release(lock: TextLock) -> None:
    with suppress(LockError):  # it expired meanwhile, or was never acquired
        lock.release()
