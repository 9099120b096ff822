"""Remembering since when something has been so: what is seen once may be on its way to change."""

from __future__ import annotations

import time
from collections.abc import Hashable


class ConditionTimer:
    def __init__(self) -> None:
        self._since: dict[Hashable, float] = {}
        self._seen: set[Hashable] = set()

    def next_pass(self) -> None:
        """A look begins: what was not seen in the last one is so no more."""
        self._since = {what: since for what, since in self._since.items() if what in self._seen}
        self._seen = set()

    def held_for(self, what: Hashable) -> float:
        """For how long this has been seen in every look; 0 the first time."""
        now = time.monotonic()
        self._seen.add(what)
        return now - self._since.setdefault(what, now)
