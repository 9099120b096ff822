"""The log protocol over Redis: to a `LogRequest`, a worker answers with the lines so far in `LogChunk`s.

While an instance is followed, it publishes later lines as `LogBatch`es. It numbers each instance's lines: a follower
continues from the cursor of its answer, and requests a gap in the numbers, which shows lost batches, by its position.
"""

from collections.abc import Mapping

from pydantic import AwareDatetime, Field

from aima_core.domain.ids import AnswerId, InstanceId, WireModel
from aima_core.logs.dedup import StreamName, StreamPosition

MAX_TAIL = 10_000
"""Lines per request."""


class LogLine(WireModel):
    at: AwareDatetime
    stream: StreamName
    text: str
    """Sanitized, without its line end, at most 16 KiB."""


class LogCursor(WireModel):
    """How far a log was read: by number within one run of the count, by position across runs."""

    run: str = ""
    """A worker that restarts begins a new run. Empty where no worker numbered the lines."""
    next: int = 0
    position: Mapping[StreamName, StreamPosition] = {}


class LogRequest(WireModel):
    instance: InstanceId
    answer: AnswerId | None = None
    """Where to answer; None only renews the follow."""
    tail: int = Field(100, ge=0, le=MAX_TAIL)
    since: AwareDatetime | None = None
    after: LogCursor | None = None
    """Only lines after this position."""
    follow: bool = False
    """Publish later lines until the follow expires; followers renew it."""


class LogEnd(WireModel):
    found: bool = True
    """Whether the container exists."""
    error: str | None = None
    """Why the log could not be read."""
    cursor: LogCursor | None = None
    """Published lines continue the answer from here, without gap or repeat."""


class LogChunk(WireModel):
    """Part of an answer; only the last one has an `end`."""

    lines: tuple[LogLine, ...] = ()
    left_out: int = 0
    """Lines before these that exceeded the size limit."""
    end: LogEnd | None = None


class LogBatch(WireModel):
    """Published lines, numbered from `first`, with the position after them."""

    run: str
    first: int
    """The number of the first line, left out or not."""
    left_out: int = 0
    """Lines before these that exceeded the rate limit."""
    skipped: float = 0
    """Seconds before these lines that were not read; their lines have no numbers."""
    lines: tuple[LogLine, ...] = ()
    ended: bool = False
    """The container has exited or was removed."""
    position: Mapping[StreamName, StreamPosition] = {}

    @property
    def next(self) -> int:
        return self.first + self.left_out + len(self.lines)

    @property
    def cursor(self) -> LogCursor:
        return LogCursor(run=self.run, next=self.next, position=self.position)

    def left_out_after(self, number: int) -> int:
        """How many lines from `number` on were left out."""
        return max(self.first + self.left_out - max(number, self.first), 0)

    def lines_after(self, number: int) -> tuple[LogLine, ...]:
        """The lines from `number` on."""
        return self.lines[max(number - self.first - self.left_out, 0) :]


class LastLines(WireModel):
    """Stored for when neither the host nor the container can be read."""

    at: AwareDatetime
    """When they were stored."""
    lines: tuple[LogLine, ...]
