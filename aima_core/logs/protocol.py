"""What API nodes and hosts say to each other about log lines, through Redis.

An API node asks (`Ask`); the host answers with what was said before (`Answer`, in pieces) and, while somebody follows,
publishes what is said from then on (`Batch`). The lines of one instance are numbered by its host, so that a reader
sees by a batch's number whether it missed something, and how much.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from aima_core.domain.ids import AnswerId, InstanceId, WireModel

MOST_TAIL = 10_000
"""Lines that one question can ask for."""


class Line(WireModel):
    at: datetime
    stream: Literal["stdout", "stderr"]
    text: str
    """Without its end, and harmless to a terminal."""


class LogRequest(WireModel):
    instance: InstanceId
    answer: AnswerId | None = None
    """Where to put what was said before; None asks for nothing of it."""
    tail: int = Field(100, ge=0, le=MOST_TAIL)
    since: datetime | None = None
    follow: bool = False
    """Publish what is said from now on, for a while: to be asked again and again as long as somebody listens."""


class LogCursor(WireModel):
    """A place among the numbered lines of one instance."""

    run: str
    """One unbroken count; a worker that begins anew counts anew."""
    next: int


class LogEnd(WireModel):
    found: bool = True
    """Whether there is a container."""
    trouble: str | None = None
    """Why it could not be read."""
    goes_on: LogCursor | None = None
    """What is published from here on continues the answer; it may begin with lines that the answer holds already."""


class LogChunk(WireModel):
    """One piece of what was said before; the last one has an `end`."""

    lines: tuple[Line, ...] = ()
    left_out: int = 0
    """So many before these would have been too much."""
    end: LogEnd | None = None


class LogBatch(WireModel):
    """Lines as they are said, and where they stand in the count."""

    run: str
    first: int
    """The number of the first line, left out or not."""
    left_out: int = 0
    """So many, before those here, came too fast to be told."""
    skipped: float = 0
    """Seconds of which no line, before those here, was read at all; those are not in the count."""
    lines: tuple[Line, ...] = ()
    ended: bool = False
    """The container has ended, or is gone."""

    @property
    def next(self) -> int:
        return self.first + self.left_out + len(self.lines)


class LastLines(WireModel):
    """Kept by the host for when neither it nor the container can be asked."""

    at: datetime
    """When they were put down."""
    lines: tuple[Line, ...]
