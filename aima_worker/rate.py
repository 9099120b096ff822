"""The rate of a transfer over the last seconds. Pure: time is an argument."""

from collections import deque
from datetime import timedelta

RATE_WINDOW = timedelta(seconds=5)
RATE_NEEDS = timedelta(milliseconds=500)
"""A rate over a shorter time would be noise."""


class RateWindow:
    """Not thread-safe."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, received: int, *, now: float) -> None:
        """`received` counts all bytes so far, and never decreases."""
        self._samples.append((now, received))
        while now - self._samples[0][0] > RATE_WINDOW.total_seconds():
            self._samples.popleft()

    def rate(self, received: int, *, now: float) -> float | None:
        """Bytes per second; None while it is not known."""
        if not self._samples:
            return None
        since, before = self._samples[0]
        span = now - since
        return (received - before) / span if span >= RATE_NEEDS.total_seconds() else None
