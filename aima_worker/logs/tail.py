"""Tails one instance's containers: one log stream per container into the instance's buffer, for all followers.

A flood is throttled: while no API node follows it, it is only polled; while followed, reading that lags behind the
engine skips to the newest lines. A stream that fails is retried at the collector's next pass.
"""

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from threading import Event, Lock, Thread

import structlog

from aima_core.errors import AimaError
from aima_core.logs.protocol import LogCursor, LogLine
from aima_worker.logs.buffer import LAST_LINES, LogBuffer
from aima_worker.runtime import Container, ContainerRuntime, LogStream

FLOOD_LINES = 1000
"""Unfollowed lines in one second that are a flood."""
FLOOD_INTERVAL = timedelta(seconds=2)
"""Poll interval of a flood that no API node follows."""
LAG_LIMIT = timedelta(seconds=3)

_log = structlog.get_logger()


class Tail:
    def __init__(
        self,
        runtime: ContainerRuntime,
        name: str,
        *,
        buffer: LogBuffer,
        watched_since: datetime,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads all lines of containers that started after `watched_since`, of older ones only the last lines."""
        self.buffer = buffer
        self._runtime = runtime
        self._name = name
        self._watched_since = watched_since
        self._clock = clock
        self._lock = Lock()
        self._attached: tuple[str, datetime | None] | None = None
        """Id and start of the container that is read."""
        self._reader: Thread | None = None
        self._stream: LogStream | None = None
        self._caught_up = Event()
        """Not set while the last lines of an old container are read: the position is unknown until then."""
        self._caught_up.set()
        self._woken = Event()
        self._closed = False

    @property
    def idle(self) -> bool:
        """There is no container, no follower, and no line left to store."""
        reading = self._reader is not None and self._reader.is_alive()
        return not (reading or self.buffer.followed or self.buffer.unstored)

    def attach(self, container: Container) -> None:
        """Starts the reader thread of the container unless it was started before."""
        attached = (container.id, container.started_at)
        with self._lock:
            if self._closed or attached == self._attached:
                return
            self._attached = attached
            is_new = container.started_at is not None and container.started_at > self._watched_since
            if not is_new and self.buffer.since is None:
                self._caught_up.clear()
            self._reader = Thread(target=self._read, args=(self._reader,), name=f"tail of {self._name}", daemon=True)
            self._reader.start()

    def follow(self) -> LogCursor:
        """Publishes lines until the follow expires, and wakes the thread that throttles a flood."""
        cursor = self.buffer.follow()
        self._woken.set()
        return cursor

    def wait_caught_up(self, within: timedelta) -> bool:
        """Whether the buffer's position is known. False on timeout."""
        return self._caught_up.wait(within.total_seconds())

    def close(self) -> None:
        with self._lock:
            self._closed = True
            stream = self._stream
        self._woken.set()
        if stream is not None:
            stream.close()

    def join(self, *, within: timedelta) -> None:
        """Waits for the reader thread after `close`."""
        if (reader := self._reader) is not None:
            reader.join(within.total_seconds())

    def _read(self, previous: Thread | None) -> None:
        if previous is not None:
            previous.join()
        try:
            if not self._caught_up.is_set():
                with self._runtime.logs(self._name, follow=False, tail=LAST_LINES) as lines:
                    self.buffer.prefill(list(lines))
                self._caught_up.set()
            tail = None
            while self._falls_behind(tail=tail):
                tail = self._tail_to_resume()
            self.buffer.end()
        except AimaError as failed:
            _log.warning("log not read", container=self._name, reason=str(failed))
            self._attached = None  # the collector's next pass attaches the container again
        except Exception:  # noqa: BLE001 the error boundary of the thread
            _log.exception("log not read", container=self._name)
            self._attached = None

    def _falls_behind(self, *, tail: int | None) -> bool:
        """Reads on from the buffer's position, or from the last lines, until the log ends; True if it is too fast."""
        self.buffer.rewind()
        pace = _Pace(self._clock)
        after_gap = tail is not None
        with self._opened(tail) as lines:
            for line in lines:
                self.buffer.add(line, after_gap=after_gap)
                after_gap = False
                if self._closed:
                    break
                if pace.is_exceeded_by(line, followed=self.buffer.followed):
                    return True
        return False

    def _tail_to_resume(self) -> int | None:
        """LAST_LINES to skip to the newest lines, after a pause if unfollowed; None if a follow ends the pause."""
        if self.buffer.followed:
            return LAST_LINES
        self._woken.clear()
        if not (self.buffer.followed or self._closed):
            self._woken.wait(FLOOD_INTERVAL.total_seconds())
        return None if self.buffer.followed else LAST_LINES

    def _opened(self, tail: int | None) -> LogStream:
        lines = self._runtime.logs(self._name, follow=True, tail=tail, since=self.buffer.since)
        with self._lock:
            self._stream = lines
            closed = self._closed
        if closed:
            lines.close()
        return lines


class _Pace:
    """Detects a flood while unfollowed, and a lag while followed. Measures every hundredth line."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._second = clock()
        self._lines = 0
        self._least_offset = float("inf")
        """Between the clock and the lines' times, when reading was nearest to the newest line."""

    def is_exceeded_by(self, line: LogLine, *, followed: bool) -> bool:
        self._lines += 1
        if self._lines % 100:
            return False
        now = self._clock()
        offset = now - line.at.timestamp()
        self._least_offset = min(self._least_offset, offset)
        if followed:
            return offset - self._least_offset > LAG_LIMIT.total_seconds()
        if now - self._second > 1:
            self._second, self._lines = now, 0
        return self._lines >= FLOOD_LINES
