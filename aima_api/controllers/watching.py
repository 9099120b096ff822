"""For how long an API node has been able to see, without a break, who is heard of.

After Redis was away, or this node stood still, every host looks silent: who is taken for lost by that was never lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta


class VisibilityWindow:
    def __init__(self, *, looks_every: timedelta, clock: Callable[[], float] = time.monotonic) -> None:
        """Two looks further apart than twice `looks_every` leave a break between them."""
        self._longest_gap = 2 * looks_every.total_seconds()
        self._clock = clock
        self._began: float | None = None
        self._looked = 0.0

    def observe(self) -> timedelta:
        """To be called when Redis has answered. Gives for how long there was no break."""
        now = self._clock()
        if self._began is None or now - self._looked > self._longest_gap:
            self._began = now
        self._looked = now
        return timedelta(seconds=now - self._began)

    def lose_sight(self) -> None:
        """Redis does not answer."""
        self._began = None
