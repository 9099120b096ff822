"""Follows one container's log across lost connections to the engine.

The engine ends a log stream the same way whether the container has exited or the engine itself has crashed. After each
end the container is inspected; the log of a running one is read again from the last line's position, and duplicates
are dropped. While the engine is unavailable it is polled with backoff; after RECONNECT_TIMEOUT, DockerUnavailable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import NamedTuple, Protocol, Self

from aima_core.errors import DockerUnavailable
from aima_core.logs.dedup import LineDeduplicator, StreamName
from aima_core.logs.protocol import LogLine
from aima_worker.runtime import Container, Status
from aima_worker.runtimes.docker.parsing import moment
from aima_worker.runtimes.line_splitter import LineSplitter

RECONNECT_TIMEOUT = timedelta(minutes=1)
FIRST_RECONNECT_DELAY = timedelta(seconds=0.1)
LONGEST_RECONNECT_DELAY = timedelta(seconds=2)


class LogQuery(NamedTuple):
    container: str
    follow: bool
    tail: int | None
    since: str | None
    """Seconds since 1970, with a fraction."""


class Frame(NamedTuple):
    """One write of the container: a line with its end, or a piece of a long one."""

    stream: StreamName
    at: str
    """The engine's own time, to the nanosecond; in order as text."""
    data: bytes


class LogFrames(Protocol):
    """One connection to a log. Iterated by one thread, closed by any."""

    def __iter__(self) -> Iterator[Frame]:
        """No frames if the container is gone. Raises DockerUnavailable, EngineRefused; may end for any reason."""
        ...

    def close(self) -> None: ...


class DockerLogs:
    """A LogStream. Iterated by one thread, closed by any."""

    def __init__(
        self,
        name: str,
        *,
        frames: Callable[[LogQuery], LogFrames],
        inspect: Callable[[str], Container | None],
        follow: bool,
        tail: int | None,
        since: datetime | None,
    ) -> None:
        self._name = name
        self._open = frames
        self._inspect = inspect
        self._follow = follow
        self._tail = tail
        self._since = since
        self._closed = Event()
        self._frames: LogFrames | None = None
        self._read = LineDeduplicator()
        self._splitters: dict[StreamName, LineSplitter] = {"stdout": LineSplitter(), "stderr": LineSplitter()}

    def __iter__(self) -> Iterator[LogLine]:
        try:
            container = self._inspect(self._name)
            while container is not None and not self._closed.is_set():
                follows = self._follow and container.status is Status.RUNNING
                yield from self._lines_of(container.id, follow=follows)
                if not follows:
                    break
                container = self._inspected_again(container.id)
            yield from self._unfinished_lines()
        finally:
            self.close()

    def close(self) -> None:
        self._closed.set()
        if (frames := self._frames) is not None:
            frames.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _lines_of(self, container: str, *, follow: bool) -> Iterator[LogLine]:
        self._read.rewind()
        for stream, time, data in self._frames_of(container, follow=follow):
            at = moment(time) or datetime.now(UTC)
            if self._read.is_new(stream, at):
                for text in self._splitters[stream].feed(data):
                    yield LogLine(at=at, stream=stream, text=text)

    def _frames_of(self, container: str, *, follow: bool) -> Iterator[Frame]:
        since = self._read.since or self._since
        tail = None if self._read.position else self._tail
        seconds = None if since is None else f"{since.timestamp():.6f}"
        self._frames = self._open(LogQuery(container, follow, tail=tail, since=seconds))
        if self._closed.is_set():
            return
        try:
            yield from self._frames
        except DockerUnavailable:
            # A follower reconnects, and waits for the engine there.
            if not follow or not self._read.position:
                raise
        finally:
            self._frames.close()

    def _inspected_again(self, container: str) -> Container | None:
        """Retries until the engine answers. Raises DockerUnavailable after RECONNECT_TIMEOUT."""
        waited, delay = timedelta(), FIRST_RECONNECT_DELAY
        while not self._closed.is_set():
            try:
                return self._inspect(container)
            except DockerUnavailable:
                if waited > RECONNECT_TIMEOUT:
                    raise
            self._closed.wait(delay.total_seconds())
            waited, delay = waited + delay, min(delay * 2, LONGEST_RECONNECT_DELAY)
        return None

    def _unfinished_lines(self) -> Iterator[LogLine]:
        for stream, last in self._read.position.items():
            for text in self._splitters[stream].end():
                yield LogLine(at=last.at, stream=stream, text=text)
