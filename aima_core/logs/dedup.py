"""Joins lines that were read twice: what was said before with what is said from now on, without gap or repeat.

The join is by the lines' own times. stdout and stderr are each in order by themselves, and the two together are not
quite, so each has its own place; lines of the very same time are told apart by what they say.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Protocol

INTERLEAVED = timedelta(seconds=1)
"""A line of one stream comes at most so much later than a younger one of the other."""
_NEVER = datetime.min.replace(tzinfo=UTC)


class Timestamped(Protocol):
    @property
    def at(self) -> datetime: ...
    @property
    def stream(self) -> str: ...
    @property
    def text(self) -> str: ...


class LineDeduplicator:
    """What a reader has seen of one instance."""

    def __init__(self) -> None:
        self._streams: dict[str, _Stream] = {}

    @property
    def since(self) -> datetime | None:
        """Whoever reads again has to begin here, so that nothing is missing; None if nothing was seen."""
        last = max((stream.last for stream in self._streams.values()), default=None)
        return None if last is None else last - INTERLEAVED

    def rewind(self) -> None:
        """From now on lines come that may have been seen already."""
        for stream in self._streams.values():
            stream.repeats = stream.of_last.copy()

    def is_new(self, line: Timestamped) -> bool:
        """Whether the line has not been seen; it has been from now on."""
        stream = self._streams.setdefault(line.stream, _Stream())
        return stream.is_new(line.at, line.text)


class _Stream:
    def __init__(self) -> None:
        self.last = _NEVER
        self.of_last: Counter[str] = Counter()
        """The lines of that very time."""
        self.repeats: Counter[str] | None = None
        """Those of them that may come once more; None once the stream is beyond them."""

    def is_new(self, at: datetime, text: str) -> bool:
        if self.repeats is not None:
            if at < self.last:
                return False
            if at == self.last and self.repeats[text]:
                self.repeats[text] -= 1
                return False
            if at > self.last:
                self.repeats = None
        if at != self.last:
            self.last = at
            self.of_last.clear()
        self.of_last[text] += 1
        return True
