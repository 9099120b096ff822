"""Quotas of API keys: requests in a minute, by a token bucket, and requests at once, by a counter. Per gateway.

A counter lives as long as its key has requests in flight, and a bucket is one of a bounded number: the memory does not
grow with the number of keys or requests.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from aima_api.access.keys import ApiKey
from aima_api.access.limits import TokenBuckets
from aima_core.errors import KeyBusy, KeyRateExceeded

RETRY_WHEN_BUSY = timedelta(seconds=1)


class Quotas:
    """For one thread, such as that of an event loop."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._buckets = TokenBuckets(per_minute=1, clock=clock)  # each key has a rate of its own
        self._in_flight = Counter[str]()

    @contextmanager
    def admit(self, key: ApiKey) -> Iterator[None]:
        """Counts a request of the key while inside. Raises KeyBusy, KeyRateExceeded: it then counts nowhere."""
        most = key.concurrent_requests
        if most is not None and self._in_flight[key.id] >= most:
            raise KeyBusy(key=key.name, most=most, wait=int(RETRY_WHEN_BUSY.total_seconds()))
        self._take_token(key)
        self._in_flight[key.id] += 1
        try:
            yield
        finally:
            self._in_flight[key.id] -= 1
            if not self._in_flight[key.id]:
                del self._in_flight[key.id]

    def in_flight(self, key_id: str) -> int:
        return self._in_flight.get(key_id, 0)

    def _take_token(self, key: ApiKey) -> None:
        most = key.requests_per_minute
        if most is not None and (wait := self._buckets.take(key.id, per_minute=most)) is not None:
            raise KeyRateExceeded(key=key.name, most=most, wait=math.ceil(wait.total_seconds()))
