"""The lines of one container, from the engine's own log, over as many readings of it as it takes.

The end of a reading is not the end of the container: the engine ends it just as quietly when it dies itself. So after
each end the container is asked for, and a running one is listened to again from where the last line was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Literal, NamedTuple, Protocol, Self

from aima_core.errors import DockerUnavailable
from aima_worker.runtime import Container, LogLine, Status
from aima_worker.runtimes.docker.parsing import moment
from aima_worker.runtimes.line_splitter import LineSplitter

PATIENCE = timedelta(minutes=1)
"""How long an engine that has gone away may take to come back to a reader that follows."""
OVERLAP = timedelta(seconds=1)
"""That is read once more after a reconnection, since the two streams' times interleave."""
FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 2.0

StreamName = Literal["stdout", "stderr"]


class LogWish(NamedTuple):
    container: str
    follow: bool
    tail: int | None
    since: str | None
    """Seconds since 1970, with a fraction."""


class Frame(NamedTuple):
    """What a container wrote at once: a line with its end, or a piece of one that is long."""

    stream: StreamName
    at: str
    """The engine's own time, to the nanosecond; in order as text."""
    data: bytes


class LogFrames(Protocol):
    """One reading of a log. Iterated by one thread, closed by any."""

    def __iter__(self) -> Iterator[Frame]:
        """Nothing for a container that is gone. Raises DockerUnavailable, EngineRefused; may end for any reason."""
        ...

    def close(self) -> None: ...


class _Read:
    """How far one of the two streams has been read. Each is in order by itself; the two together are not quite."""

    def __init__(self) -> None:
        self.splitter = LineSplitter()
        self.last = ""
        """The last frame's time as the engine wrote it: to the nanosecond, and in order as text."""
        self._of_last = 0
        """How many frames of that very time have been read."""
        self._to_skip = 0

    def begin_again(self) -> None:
        self._to_skip = self._of_last

    def is_new(self, at: str) -> bool:
        """Whether the next frame has not been read before."""
        if at < self.last or (at == self.last and self._to_skip):
            self._to_skip -= at == self.last
            return False
        self._of_last = self._of_last + 1 if at == self.last else 1
        self.last, self._to_skip = at, 0
        return True


class DockerLogs:
    """A LogStream. Iterated by one thread, closed by any."""

    def __init__(
        self,
        name: str,
        *,
        frames: Callable[[LogWish], LogFrames],
        inspect: Callable[[str], Container | None],
        follow: bool,
        tail: int | None,
        since: datetime | None,
    ) -> None:
        self._name = name
        self._begin = frames
        self._inspect = inspect
        self._follow = follow
        self._tail = tail
        self._since = since
        self._ended = Event()
        self._frames: LogFrames | None = None
        self._read: dict[StreamName, _Read] = {"stdout": _Read(), "stderr": _Read()}

    def __iter__(self) -> Iterator[LogLine]:
        try:
            container = self._inspect(self._name)
            while container is not None and not self._ended.is_set():
                follows = self._follow and container.status is Status.RUNNING
                yield from self._lines_of(container.id, follow=follows)
                if not follows:
                    break
                container = self._still_there(container.id)
            yield from self._unfinished()
        finally:
            self.close()

    def close(self) -> None:
        self._ended.set()
        if (frames := self._frames) is not None:
            frames.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def _last(self) -> str:
        return max(read.last for read in self._read.values())

    def _lines_of(self, container: str, *, follow: bool) -> Iterator[LogLine]:
        for read in self._read.values():
            read.begin_again()
        for stream, at, data in self._frames_of(container, follow=follow):
            if self._read[stream].is_new(at):
                for text in self._read[stream].splitter.feed(data):
                    yield LogLine(at=_moment(at), stream=stream, text=text)

    def _frames_of(self, container: str, *, follow: bool) -> Iterator[Frame]:
        self._frames = self._begin(self._wish(container, follow=follow))
        if self._ended.is_set():
            return
        try:
            yield from self._frames
        except DockerUnavailable:
            # Whoever follows asks for the container next, and waits for the engine there.
            if not follow or not self._last:
                raise
        finally:
            self._frames.close()

    def _wish(self, container: str, *, follow: bool) -> LogWish:
        if self._last:
            return LogWish(container, follow, tail=None, since=_seconds(_moment(self._last) - OVERLAP))
        since = None if self._since is None else _seconds(self._since)
        return LogWish(container, follow, tail=self._tail, since=since)

    def _still_there(self, container: str) -> Container | None:
        """The container, once the engine answers. Raises DockerUnavailable when that takes longer than PATIENCE."""
        waited, wait = 0.0, FIRST_WAIT_SECONDS
        while not self._ended.is_set():
            try:
                return self._inspect(container)
            except DockerUnavailable:
                if waited > PATIENCE.total_seconds():
                    raise
            self._ended.wait(wait)
            waited, wait = waited + wait, min(wait * 2, LONGEST_WAIT_SECONDS)
        return None

    def _unfinished(self) -> Iterator[LogLine]:
        for stream, read in self._read.items():
            for text in read.splitter.end():
                yield LogLine(at=_moment(read.last), stream=stream, text=text)


def _moment(at: str) -> datetime:
    return moment(at) or datetime.now(UTC)


def _seconds(at: datetime) -> str:
    return f"{at.timestamp():.6f}"
