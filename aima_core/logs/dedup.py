"""Drops duplicate log lines by position: the time of the last line read of each stream, and how many had that time.

Each stream is in order of time, merged they are not quite. Times are the engine's, so a position outlives reconnects
and restarts. If that clock is set back, lines are dropped only after a reconnect, until it passes the position again.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, Self

StreamName = Literal["stdout", "stderr"]

INTERLEAVING = timedelta(seconds=1)
"""Upper bound on how far the merged streams are out of order."""


class StreamPosition(NamedTuple):
    at: datetime
    """Time of the last line read."""
    lines: int
    """Lines read that have that time."""


LogPosition = Mapping[StreamName, StreamPosition]
_START = StreamPosition(datetime.min.replace(tzinfo=UTC), 0)


class LineDeduplicator:
    """Recognizes duplicates, the lines at or before a position, when a log is read again."""

    def __init__(self, position: LogPosition | None = None) -> None:
        self._read = dict(position or {})
        self._repeats: dict[StreamName, int] = {}
        self.rewind()

    @classmethod
    def starting_at(cls, at: datetime) -> Self:
        """Treats all lines before `at` as read."""
        return cls({"stdout": StreamPosition(at, 0), "stderr": StreamPosition(at, 0)})

    @property
    def position(self) -> LogPosition:
        """A snapshot."""
        return dict(self._read)

    @property
    def since(self) -> datetime | None:
        """Where to read again so that no line is missed; None before the first line."""
        last = max((position.at for position in self._read.values()), default=None)
        return None if last is None else last - INTERLEAVING

    def rewind(self) -> None:
        """The log is read again from an earlier line."""
        self._repeats = {stream: position.lines for stream, position in self._read.items()}

    def is_new(self, stream: StreamName, at: datetime) -> bool:
        """Whether the next line was not read before. Advances the position if so."""
        last, count = self._read.get(stream, _START)
        if stream in self._repeats:
            if at < last:
                return False
            if at == last and self._repeats[stream]:
                self._repeats[stream] -= 1
                return False
            if at > last:
                del self._repeats[stream]
        if at >= last:  # an engine's clock that is set back does not move the position back
            self._read[stream] = StreamPosition(at, count + 1 if at == last else 1)
        return True

    def skip_to(self, at: datetime) -> None:
        """Treats unread lines before `at` as read, since they are not going to be read."""
        for stream, position in self.starting_at(at)._read.items():
            if self._read.get(stream, _START).at < at:
                self._read[stream] = position
