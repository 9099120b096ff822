"""Pacing of a transfer to a rate: each part starts when those before it have had their time. Pure."""

from __future__ import annotations


class Pacing:
    def __init__(self) -> None:
        self._free_at = 0.0

    def delay(self, size: int, rate: float, *, now: float) -> float:
        """Seconds until `size` more bytes may start at `rate` bytes per second."""
        starts = max(now, self._free_at)
        self._free_at = starts + size / rate
        return starts - now
