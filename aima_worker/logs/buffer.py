"""The buffer between one instance's log and Redis: numbers lines, batches them while followed, keeps the last ones.

Every queue is bounded: of a flood, a batch keeps the newest lines and the number of those left out. The buffer
outlives the container; a restarted one continues the numbers. All methods are thread-safe.
"""

import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from threading import Lock

from aima_core.logs.dedup import LineDeduplicator
from aima_core.logs.protocol import LastLines, LogBatch, LogCursor, LogLine

LAST_LINES = 100
LAST_LINE_LENGTH = 2048
"""Characters of each."""
BATCH_LINES = 1000
BATCH_SIZE = 128 * 1024
"""Characters."""


class LogBuffer:
    def __init__(
        self, *, follow_ttl: timedelta, on_change: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`on_change` is called, from any thread, when there is a batch to publish."""
        self._follow_ttl = follow_ttl.total_seconds()
        self._on_change = on_change
        self._clock = clock
        self._lock = Lock()
        self._run = uuid.uuid4().hex
        self._count = 0
        self._first = 0
        """The number of the batch's first line."""
        self._batch: deque[LogLine] = deque(maxlen=BATCH_LINES)
        self._skipped = 0.0
        self._due = False
        """There is a batch to publish, even without a line."""
        self._last: deque[LogLine] = deque(maxlen=LAST_LINES)
        self._read = LineDeduplicator()
        self._followed_until = float("-inf")
        self.unstored = False
        """The last lines have changed since they were taken."""
        self.ended = False
        """The container has exited or was removed."""

    @property
    def followed(self) -> bool:
        return self._clock() < self._followed_until

    @property
    def since(self) -> datetime | None:
        """Where to read the log again so that no line is missed; None before the first line."""
        return self._read.since

    def follow(self) -> LogCursor:
        """Publishes lines until the follow expires; all lines from the returned cursor on."""
        with self._lock:
            if not self.followed:
                self._start_batch()
                self._due = True
            self._followed_until = self._clock() + self._follow_ttl
            cursor = LogCursor(run=self._run, next=self._count, position=self._read.position)
        self._on_change()
        return cursor

    def prefill(self, lines: Sequence[LogLine]) -> None:
        """Starts with the last lines of a log whose older lines are not going to be read."""
        with self._lock:
            for line in lines:
                self._read.is_new(line.stream, line.at)
            if lines:
                self._read.skip_to(lines[0].at)
                self.unstored = True
            self._last.extend(lines)

    def rewind(self) -> None:
        """The log is read again: lines before the position are ignored."""
        with self._lock:
            self._read.rewind()
            self.ended = False

    def add(self, line: LogLine, *, after_gap: bool = False) -> None:
        """Numbers the line unless it was read before. `after_gap`: lines before it may not have been read."""
        with self._lock:
            if not self._read.is_new(line.stream, line.at):
                return
            if after_gap:
                self._read.skip_to(line.at)
                self._skipped += max((line.at - self._last[-1].at).total_seconds(), 0) if self._last else 0
            self._count += 1
            self._last.append(line)
            self.unstored = True
            if not self.followed:
                return
            self._batch.append(line)
            self._due = True
        self._on_change()

    def end(self) -> None:
        with self._lock:
            self.ended = True
            self._due = self._due or self.followed
        self._on_change()

    def take_batch(self) -> LogBatch | None:
        """The next batch to publish, if any."""
        with self._lock:
            if not self._due:
                return None
            lines = _newest(self._batch)
            batch = LogBatch(
                run=self._run,
                first=self._first,
                left_out=self._count - self._first - len(lines),
                skipped=self._skipped,
                lines=lines,
                ended=self.ended,
                position=self._read.position,
            )
            self._start_batch()
            self._due = False
            return batch

    def take_last_lines(self, *, renew: bool = False) -> LastLines | None:
        """The last lines if they have changed since they were taken, or to renew them."""
        with self._lock:
            if not self._last or not (self.unstored or renew):
                return None
            self.unstored = False
            return LastLines(at=datetime.now(UTC), lines=tuple(map(_shortened, self._last)))

    def _start_batch(self) -> None:
        self._batch.clear()
        self._skipped = 0.0
        self._first = self._count


def _newest(lines: Sequence[LogLine]) -> tuple[LogLine, ...]:
    """The last lines of at most BATCH_SIZE in all."""
    sizes = accumulate(len(line.text) for line in reversed(lines))
    count = max(sum(size <= BATCH_SIZE for size in sizes), 1)
    return tuple(lines)[-count:]


def _shortened(line: LogLine) -> LogLine:
    if len(line.text) <= LAST_LINE_LENGTH:
        return line
    return line.model_copy(update={"text": line.text[:LAST_LINE_LENGTH] + "…"})
