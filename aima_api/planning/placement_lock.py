"""One at a time, of all API nodes: whoever chooses hosts for several replicas is to see what the one before chose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta

from redis.exceptions import LockError

from aima_core.domain.ids import ServiceId
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis

AT_MOST = timedelta(seconds=2)
"""For one turn: a node may have died in it."""
WAITS = AT_MOST + timedelta(seconds=0.5)
ASKS_EVERY = timedelta(milliseconds=20)


class PlacementLocks:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis

    @contextmanager
    def holding(self, services: Iterable[ServiceId]) -> Iterator[None]:
        """While it lasts, nobody else chooses hosts for these."""
        with ExitStack() as locks:
            for service in sorted(services):
                locks.enter_context(self._with(service))
            yield

    @contextmanager
    def _with(self, service: ServiceId) -> Iterator[None]:
        lasts, pause, waits = AT_MOST.total_seconds(), ASKS_EVERY.total_seconds(), WAITS.total_seconds()
        turn = self._redis.lock(keys.turn(service), timeout=lasts, sleep=pause, blocking_timeout=waits)
        turn.acquire()
        try:
            yield
        finally:
            with suppress(LockError):  # it has run out meanwhile
                turn.release()
