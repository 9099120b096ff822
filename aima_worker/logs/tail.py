"""One instance's lines as its container says them: one reader, whoever listens.

The last lines are always kept. What is said while somebody follows is gathered in batches besides, each bounded: of a
flood the newest lines are told, and how many were left out, or for how long. While nobody follows, a flood is not read
at all, but looked at now and then. The tail outlives its container: the next one of the same name goes on in the count.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from threading import Event as Flag
from threading import Lock, Thread

import structlog

from aima_core.errors import AimaError
from aima_core.logs.dedup import LineDeduplicator
from aima_core.logs.protocol import LastLines, Line, LogBatch, LogCursor
from aima_worker.runtime import Container, ContainerRuntime, LogLine, LogStream

KEPT = 100
"""Lines that stay readable when the container is gone."""
KEPT_OF_A_LINE = 2048
"""Characters of each of them."""
MOST_IN_BATCH = 1000
MOST_BYTES_IN_BATCH = 128 * 1024
FLOOD = 1000
"""Lines in a second, read for nobody, make a flood."""
MOST_LAG = timedelta(seconds=3)
"""Whoever is read so late, since more is said than can be read, is read on from the newest lines."""
RESTS = timedelta(seconds=2)
"""Between two looks at a flood that nobody follows."""

_log = structlog.get_logger()


class Tail:
    def __init__(
        self,
        runtime: ContainerRuntime,
        name: str,
        *,
        watched_since: datetime,
        follow_lasts: timedelta,
        news: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Of a container that began after `watched_since` every line is read, of others the last ones.

        `news` is called, from any thread, when there is something to publish.
        """
        self._runtime = runtime
        self._name = name
        self._watched_since = watched_since
        self._follow_lasts = follow_lasts.total_seconds()
        self._tell = news
        self._clock = clock
        self._lock = Lock()
        self._run = uuid.uuid4().hex
        self._count = 0
        self._first = 0
        """The number of the first line of the batch that is being gathered."""
        self._batch: deque[LogLine] = deque(maxlen=MOST_IN_BATCH)
        self._bytes = 0
        self._last: deque[LogLine] = deque(maxlen=KEPT)
        self._skipping_from: datetime | None = None
        self._skipped = 0.0
        self._changed = False
        self._due = False
        """There is something to publish even without a line."""
        self._ended = False
        self._wanted_until = float("-inf")
        self._seen = LineDeduplicator()
        self._life: tuple[str, datetime | None] | None = None
        self._next: deque[Container] = deque()
        self._reader: Thread | None = None
        self._stream: LogStream | None = None
        self._woken = Flag()
        self._closed = False

    # The container ------------------------------------------------------------------------------------------------

    def attach(self, container: Container) -> None:
        """Read what this container says, from its beginning or from now on; at once if it is read already."""
        life = (container.id, container.started_at)
        with self._lock:
            if self._closed or life == self._life:
                return
            self._life = life
            self._next.append(container)
            if self._reader is None:
                self._reader = Thread(target=self._read_all, name=f"tail of {self._name}", daemon=True)
                self._reader.start()

    def close(self) -> None:
        """Stop reading, soon."""
        with self._lock:
            self._closed = True
            stream = self._stream
        self._woken.set()
        if stream is not None:
            stream.close()

    def join(self, *, within: timedelta) -> None:
        """Wait until nothing is read any more."""
        if (reader := self._reader) is not None:
            reader.join(within.total_seconds())

    @property
    def idle(self) -> bool:
        """Nothing is read, nobody listens, and nothing is left to be kept."""
        return self._reader is None and not self.wanted and not self._changed

    @property
    def ended(self) -> bool:
        """Its container has ended, or is gone."""
        return self._ended

    # Who listens --------------------------------------------------------------------------------------------------

    @property
    def wanted(self) -> bool:
        return self._clock() < self._wanted_until

    def want(self) -> LogCursor:
        """Publish from now on, for a while; where that begins, at the latest."""
        with self._lock:
            if not self.wanted:
                self._drop_batch()
                self._due = True
            self._wanted_until = self._clock() + self._follow_lasts
            place = LogCursor(run=self._run, next=self._first)
        self._woken.set()
        self._tell()
        return place

    def take_batch(self) -> LogBatch | None:
        """What there is to publish, if anything."""
        with self._lock:
            if not self._due:
                return None
            lines = tuple(map(_told, self._batch))
            left_out = self._count - self._first - len(lines)
            batch = LogBatch(
                run=self._run,
                first=self._first,
                left_out=left_out,
                skipped=self._skipped,
                lines=lines,
                ended=self._ended,
            )
            self._drop_batch()
            self._due = False
            return batch

    def take_last(self, *, anyway: bool = False) -> LastLines | None:
        """The last lines, if they have changed since they were taken before."""
        with self._lock:
            if not self._last or not (self._changed or anyway):
                return None
            self._changed = False
            return LastLines(at=datetime.now(UTC), lines=tuple(_told(line, cut=KEPT_OF_A_LINE) for line in self._last))

    def put_back_last(self) -> None:
        """They could not be kept: offer them again."""
        self._changed = True

    # Reading ------------------------------------------------------------------------------------------------------

    def _read_all(self) -> None:
        while True:
            with self._lock:
                if self._closed or not self._next:
                    self._reader = None
                    return
                container = self._next.popleft()
            self._read(container)

    def _read(self, container: Container) -> None:
        self._ended = False
        is_new = container.started_at is not None and container.started_at > self._watched_since
        tail, since = None if is_new else KEPT, self._seen.since
        try:
            while (stopped := self._read_on(tail=tail, since=since)) is not _Stop.END:
                tail, since = self._go_on_after(stopped)
        except AimaError as away:
            _log.warning("log cannot be read", container=self._name, why=str(away))
            self._life = None  # the next look at the containers begins anew
            return
        with self._lock:
            self._ended = self._due = True
        self._tell()

    def _read_on(self, *, tail: int | None, since: datetime | None) -> _Stop:
        self._seen.rewind()
        pace = _Pace(self._clock)
        with self._opened(tail=tail, since=since) as lines:
            for line in lines:
                if self._seen.is_new(line):
                    self._take(line)
                if self._closed:
                    break
                if (stop := pace.judge(line, followed=self.wanted)) is not None:
                    return stop
        return _Stop.END

    def _go_on_after(self, stopped: _Stop) -> tuple[int | None, datetime | None]:
        """From where to read on, once it is time to: as `tail` and `since`."""
        if stopped is _Stop.LAG:
            self._skipping_from = self._last[-1].at
            return KEPT, None
        self._woken.clear()
        if not (self.wanted or self._closed):
            self._woken.wait(RESTS.total_seconds())
        return (None if self.wanted else KEPT), self._seen.since

    def _opened(self, *, tail: int | None, since: datetime | None) -> LogStream:
        lines = self._runtime.logs(self._name, follow=True, tail=tail, since=since)
        with self._lock:
            self._stream = lines
            closed = self._closed
        if closed:
            lines.close()
        return lines

    def _take(self, line: LogLine) -> None:
        with self._lock:
            self._count += 1
            self._last.append(line)
            self._changed = True
            if not self.wanted:
                return
            if self._skipping_from is not None:
                self._skipped += max((line.at - self._skipping_from).total_seconds(), 0)
                self._skipping_from = None
            self._gather(line)
        self._tell()

    def _gather(self, line: LogLine) -> None:
        if len(self._batch) == MOST_IN_BATCH:
            self._bytes -= len(self._batch[0].text)
        self._batch.append(line)
        self._bytes += len(line.text)
        while self._bytes > MOST_BYTES_IN_BATCH and len(self._batch) > 1:
            self._bytes -= len(self._batch.popleft().text)
        self._due = True

    def _drop_batch(self) -> None:
        self._batch.clear()
        self._bytes = 0
        self._skipped = 0.0
        self._first = self._count


class _Stop(Enum):
    """Why reading was stopped."""

    END = auto()
    FLOOD = auto()
    LAG = auto()


class _Pace:
    """Whether lines come faster than they are worth reading, or than they can be read."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._second = clock()
        self._lines = 0
        self._least_offset = float("inf")
        """Between the two clocks, when reading was nearest to what was just being said."""

    def judge(self, line: LogLine, *, followed: bool) -> _Stop | None:
        """None while all is well; looked at with every hundredth line."""
        self._lines += 1
        if self._lines % 100:
            return None
        now = self._clock()
        offset = now - line.at.timestamp()
        self._least_offset = min(self._least_offset, offset)
        if followed:
            return _Stop.LAG if offset - self._least_offset > MOST_LAG.total_seconds() else None
        if now - self._second > 1:
            self._second, self._lines = now, 0
        return _Stop.FLOOD if self._lines >= FLOOD else None


def _told(line: LogLine, *, cut: int | None = None) -> Line:
    text = line.text if cut is None or len(line.text) <= cut else line.text[:cut] + "…"
    return Line(at=line.at, stream=line.stream, text=text)
