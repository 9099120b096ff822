"""The lines of one container, from the engine's own log, over as many connections as it takes.

The end of a stream is not the end of the container: the engine ends it just as quietly when it dies itself. So after
each end the container is asked for, and a running one is listened to again from where the last line was.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Literal, Self

from aima_core.failures import DockerUnavailable, EngineRefused
from aima_worker.log_lines import LineSplitter
from aima_worker.runtime import Container, LogLine, Status
from aima_worker.runtimes.docker_client import EngineClient
from aima_worker.runtimes.docker_reading import moment
from aima_worker.runtimes.docker_stream import EngineStream, Refusal

PATIENCE = timedelta(minutes=1)
"""How long an engine that has gone away may take to come back to a reader that follows."""
OVERLAP = timedelta(seconds=1)
"""That is read once more after a reconnection, since the two streams' times interleave."""
FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 2.0
_HEADER = struct.Struct(">BxxxL")
_STREAMS: dict[int, Literal["stdout", "stderr"]] = {1: "stdout", 2: "stderr"}


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
        engine: EngineClient,
        name: str,
        *,
        inspect: Callable[[str], Container | None],
        follow: bool,
        tail: int | None,
        since: datetime | None,
    ) -> None:
        self._engine = engine
        self._name = name
        self._inspect = inspect
        self._follow = follow
        self._tail = tail
        self._since = since
        self._ended = Event()
        self._stream: EngineStream | None = None
        self._read = {stream: _Read() for stream in _STREAMS.values()}

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
        if (stream := self._stream) is not None:
            stream.close()

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
        for stream, at, data in self._frames(container, follow=follow):
            if self._read[stream].is_new(at):
                for text in self._read[stream].splitter.feed(data):
                    yield LogLine(at=_moment(at), stream=stream, text=text)

    def _frames(self, container: str, *, follow: bool) -> Iterator[tuple[Literal["stdout", "stderr"], str, bytes]]:
        buffer = bytearray()
        for chunk in self._chunks(container, follow=follow):
            buffer += chunk
            start = 0
            while len(buffer) - start >= _HEADER.size:
                kind, length = _HEADER.unpack_from(buffer, start)
                end = start + _HEADER.size + length
                if len(buffer) < end:
                    break
                at, _, data = bytes(buffer[start + _HEADER.size : end]).partition(b" ")
                yield _STREAMS.get(kind, "stdout"), at.decode(), data
                start = end
            del buffer[:start]

    def _chunks(self, container: str, *, follow: bool) -> Iterator[bytes]:
        self._stream = EngineStream(self._engine, "GET", f"/containers/{container}/logs", params=self._asked(follow))
        if self._ended.is_set():
            return
        try:
            self._stream.open(within=self._engine.timeout)
            while chunk := self._stream.next(within=None if follow else self._engine.timeout):
                yield chunk
        except Refusal as refused:
            if refused.status not in (404, 409):
                raise EngineRefused(runtime="Docker Engine", detail=str(refused)) from refused
        except TimeoutError as late:
            raise self._engine.unavailable("its log does not come") from late
        except DockerUnavailable:
            # Whoever follows asks for the container next, and waits for the engine there.
            if not follow or not self._last:
                raise
        finally:
            self._stream.close()

    def _asked(self, follow: bool) -> dict[str, str]:
        asked = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": "1" if follow else "0"}
        if self._last:
            return asked | {"since": _since(self._last, before=OVERLAP)}
        if self._tail is not None:
            asked["tail"] = str(self._tail)
        if self._since is not None:
            asked["since"] = f"{self._since.timestamp():.6f}"
        return asked

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


def _since(at: str, *, before: timedelta) -> str:
    return f"{(_moment(at) - before).timestamp():.6f}"
