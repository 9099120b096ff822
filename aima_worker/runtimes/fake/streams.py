"""The streams of the fake runtime: a log, a subscription to changes, and a pull that fetches nothing.

The runtime's condition wakes blocked readers. A pull sends a real engine's messages through the same tracker.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Condition, Event
from typing import Any, Literal

from aima_core.domain.operations import PullProgress
from aima_core.domain.units import format_duration
from aima_core.errors import AimaError, Cancelled, PullBroken, PullStalled
from aima_core.logs.protocol import LogLine
from aima_worker.runtime import ContainerSpec, LogStream
from aima_worker.runtimes.fake.engine import FakeEngine
from aima_worker.runtimes.pull_progress import PullTracker

STEPS = 4
"""Progress messages per layer, for the download and again for the extraction."""


class _Blocking:
    """A stream whose iterator blocks on the runtime's condition."""

    def __init__(self, changed: Condition) -> None:
        self._changed = changed
        self._closed = False

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class FakeLogs(_Blocking, LogStream):
    def __init__(
        self, engine: FakeEngine | None, changed: Condition, *, follow: bool, tail: int | None, since: datetime | None
    ) -> None:
        super().__init__(changed)
        self._engine = engine
        self._follow = follow
        self._tail = tail
        self._since = since

    def __iter__(self) -> Iterator[LogLine]:
        if self._engine is None:
            return
        with self._changed:
            log = list(self._engine.lines())
        first = [line for line in log if self._since is None or line.at >= self._since]
        yield from first if self._tail is None else first[max(len(first) - self._tail, 0) :]
        read = len(log)
        while self._follow and (more := self._lines_after(read, self._engine)):
            read += len(more)
            yield from more

    def _lines_after(self, read: int, engine: FakeEngine) -> list[LogLine]:
        """Blocks for the lines after the first `read`; empty once the engine has exited or the stream is closed."""
        counts = engine.behaviour.counts
        with self._changed:
            while not self._closed:
                more = engine.lines()[read:]
                if more or not engine.running:
                    return more
                self._changed.wait(counts.total_seconds() if counts else None)
        return []


class FakeChanges(_Blocking):
    """A ChangeStream."""

    def __init__(
        self,
        changed: Condition,
        changes: list[ContainerSpec],
        *,
        labels: Mapping[str, str],
        is_unavailable: Callable[[], bool],
    ) -> None:
        """The runtime appends to `changes` the spec of each container that changed, under the lock of `changed`."""
        super().__init__(changed)
        self._changes = changes
        self._labels = labels
        self._is_unavailable = is_unavailable
        self._delivered = len(changes)

    def __iter__(self) -> Iterator[str]:
        while specs := self._next():
            yield from {spec.name for spec in specs if self._labels.items() <= spec.labels.items()}

    def _next(self) -> list[ContainerSpec]:
        """Blocks for the changes since the last call; empty once closed, or while the engine is unavailable."""
        with self._changed:
            while not (self._closed or self._is_unavailable()):
                if specs := self._changes[self._delivered :]:
                    self._delivered += len(specs)
                    return specs
                self._changed.wait()
        return []


@dataclass(frozen=True)
class Published:
    """An image in a registry."""

    layers: tuple[int, ...] = (10_000_000, 20_000_000)
    """Compressed bytes of each."""
    arch: str | None = None
    """None for the architecture of the host that pulls."""
    announces_arch: bool = True
    """Whether the registry announces the architecture before the pull."""
    version: int = 1
    """Another one is another image under the same reference."""

    def messages(self) -> list[dict[str, Any]]:
        """What a real engine reports of a pull."""
        sized = [(f"{number:012x}", size) for number, size in enumerate(self.layers)]
        messages: list[dict[str, Any]] = [{"status": "Pulling fs layer", "id": layer} for layer, _ in sized]
        for word, after in (("Downloading", "Download complete"), ("Extracting", "Pull complete")):
            for layer, size in sized:
                messages += [
                    {"status": word, "id": layer, "progressDetail": {"current": size * step // STEPS, "total": size}}
                    for step in range(1, STEPS + 1)
                ]
                messages.append({"status": after, "id": layer})
        return [*messages, {"status": "Status: Downloaded newer image"}]


Outcome = AimaError | Literal["stall", "break"] | None
"""How a pull ends halfway; None for success."""


class FakePull:
    """A PullStream."""

    def __init__(
        self,
        image: str,
        published: Published,
        *,
        stall: timedelta,
        pace: timedelta,
        outcome: Outcome,
        arrived: Callable[[], None],
    ) -> None:
        self._image = image
        self._messages = published.messages()
        self._stall = stall
        self._pace = pace
        self._outcome = outcome
        self._arrived = arrived
        self._closed = Event()

    def __iter__(self) -> Iterator[PullProgress]:
        tracker = PullTracker(self._image, now=time.monotonic())
        for number, message in enumerate(self._messages, 1):
            self._pause(within=self._pace)
            if number == len(self._messages) // 2:
                self._halfway(tracker)
            tracker.take(message, now=time.monotonic())
            if number == len(self._messages):
                self._arrived()
            yield tracker.progress(now=time.monotonic())

    def close(self) -> None:
        self._closed.set()

    def _pause(self, *, within: timedelta) -> None:
        if self._closed.wait(within.total_seconds()):
            raise Cancelled()

    def _halfway(self, tracker: PullTracker) -> None:
        if self._outcome == "break":
            raise PullBroken(image=self._image, detail="unexpected EOF")
        if self._outcome == "stall":
            self._pause(within=self._stall)
            raise PullStalled(image=self._image, stall=f"{format_duration(self._stall)} at {tracker.waits_for}")
        if self._outcome is not None:
            raise self._outcome
