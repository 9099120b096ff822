"""Follows one container's log across lost connections to the engine, whose streams end in the same way at a crash.

After each end the container is inspected; the log of a running one is read again from the last line's position, without
duplicates. An unavailable engine is polled with backoff; after RECONNECT_TIMEOUT, DockerUnavailable.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from threading import Event

from aima_core.errors import DockerUnavailable, EngineRefused
from aima_core.logs.dedup import LineDeduplicator, StreamName
from aima_core.logs.protocol import LogLine
from aima_worker.runtime import Container, LogStream, Status
from aima_worker.runtimes.docker.parsing import moment
from aima_worker.runtimes.docker.sdk.client import EngineClient
from aima_worker.runtimes.docker.sdk.stream import EngineStream
from aima_worker.runtimes.line_splitter import LineSplitter

RECONNECT_TIMEOUT = timedelta(minutes=1)
FIRST_RECONNECT_DELAY = timedelta(seconds=0.1)
LONGEST_RECONNECT_DELAY = timedelta(seconds=2)
_HEADER = struct.Struct(">BxxxL")
_STREAMS: dict[int, StreamName] = {1: "stdout", 2: "stderr"}


class DockerLogs(LogStream):
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
        self._closed = Event()
        self._stream: EngineStream | None = None
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
            for stream, last in self._read.position.items():
                for text in self._splitters[stream].end():
                    yield LogLine(at=last.at, stream=stream, text=text)
        finally:
            self.close()

    def close(self) -> None:
        self._closed.set()
        if (stream := self._stream) is not None:
            stream.close()

    def _lines_of(self, container: str, *, follow: bool) -> Iterator[LogLine]:
        self._read.rewind()
        try:
            for stream, at, data in _frames(self._chunks_of(container, follow=follow)):
                if self._read.is_new(stream, at):
                    for text in self._splitters[stream].feed(data):
                        yield LogLine(at=at, stream=stream, text=text)
        except DockerUnavailable:
            # A follower reconnects, and waits for the engine there.
            if not follow or not self._read.position:
                raise

    def _chunks_of(self, container: str, *, follow: bool) -> Iterator[bytes]:
        """The bytes of one connection, which may end for any reason; none if the container is gone."""
        self._stream = stream = EngineStream(
            self._engine, "GET", f"/containers/{container}/logs", params=self._params(follow=follow)
        )
        if self._closed.is_set():
            return
        try:
            stream.open(within=self._engine.timeout)
            while chunk := stream.next(within=None if follow else self._engine.timeout):
                yield chunk
        except EngineRefused as refused:
            if refused.facts["status"] not in (404, 409):
                raise
        except TimeoutError as late:
            raise self._engine.unavailable("its log timed out") from late
        finally:
            stream.close()

    def _params(self, *, follow: bool) -> dict[str, str]:
        params = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": "1" if follow else "0"}
        if self._tail is not None and not self._read.position:
            params["tail"] = str(self._tail)
        if (since := self._read.since or self._since) is not None:
            params["since"] = f"{since.timestamp():.6f}"
        return params

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


def _frames(chunks: Iterable[bytes]) -> Iterator[tuple[StreamName, datetime, bytes]]:
    """Parses the engine's multiplexed stream: each frame is a line with its end, or a piece of a long one."""
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        start = 0
        while len(buffer) - start >= _HEADER.size:
            kind, length = _HEADER.unpack_from(buffer, start)
            end = start + _HEADER.size + length
            if len(buffer) < end:
                break
            at, _, data = bytes(buffer[start + _HEADER.size : end]).partition(b" ")
            yield _STREAMS.get(kind, "stdout"), moment(at.decode()), data
            start = end
        del buffer[:start]
