"""The streams of the fake runtime: a log, a subscription to changes, and a pull that fetches nothing.

Each is iterated by one thread and closed by any; the runtime's condition wakes blocked readers. A pull sends a real
engine's messages through the same tracker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from threading import Condition, Event
from typing import Any, Literal, Self

from aima_core.domain.operations import PullProgress
from aima_core.domain.units import format_duration
from aima_core.errors import AimaError, Cancelled, PullStalled
from aima_core.logs.protocol import LogLine
from aima_worker.runtime import ContainerSpec
from aima_worker.runtimes.fake.engine import FakeEngine
from aima_worker.runtimes.pull_progress import PullTracker

STEPS = 4
"""Progress messages per layer, for the download and again for the extraction."""


class FakeLogs:
    """A LogStream."""

    def __init__(
        self,
        engine: FakeEngine | None,
        changed: Condition,
        *,
        follow: bool,
        tail: int | None,
        since: datetime | None,
    ) -> None:
        self._engine = engine
        self._changed = changed
        self._follow = follow
        self._tail = tail
        self._since = since
        self._closed = False

    def __iter__(self) -> Iterator[LogLine]:
        if self._engine is None or self._closed:
            return
        with self._changed:
            log = list(self._engine.lines())
        first = [line for line in log if self._since is None or line.at >= self._since]
        yield from first if self._tail is None else first[max(len(first) - self._tail, 0) :]
        read = len(log)
        while self._follow and (more := self._next_lines(self._engine, read)):
            read += len(more)
            yield from more

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _next_lines(self, engine: FakeEngine, read: int) -> list[LogLine]:
        """Blocks for the lines after the first `read`; empty once the engine has exited or the stream is closed."""
        rhythm = engine.behaviour.counts.total_seconds() if engine.behaviour.counts else None
        with self._changed:
            while not self._closed:
                more = engine.lines()[read:]
                if more or not engine.running:
                    return more
                self._changed.wait(rhythm)
        return []


class FakeChanges:
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
        self._changed = changed
        self._changes = changes
        self._labels = labels
        self._is_unavailable = is_unavailable
        self._delivered = len(changes)
        self._closed = False

    def __iter__(self) -> Iterator[str]:
        while specs := self._next():
            yield from {spec.name for spec in specs if self._labels.items() <= spec.labels.items()}

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next(self) -> list[ContainerSpec]:
        """Blocks for the changes since the last call; empty once closed, or while the engine is unavailable."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self._is_unavailable() or len(self._changes) > self._delivered
            )
            if self._closed or self._is_unavailable():
                return []
            specs = self._changes[self._delivered :]
            self._delivered += len(specs)
        return specs


@dataclass(frozen=True)
class Published:
    """An image in a registry."""

    layers: tuple[int, ...] = (10_000_000, 20_000_000)
    """Compressed bytes of each."""
    arch: str | None = None
    """None for the architecture of the host that pulls."""
    announces_arch: bool = True
    """Whether the registry announces the architecture before the pull."""

    def layer_ids(self, image: str) -> list[str]:
        return [sha256(f"{image} {number}".encode()).hexdigest()[:12] for number in range(len(self.layers))]


class FakePull:
    """A PullStream."""

    def __init__(
        self,
        image: str,
        published: Published,
        *,
        stall: timedelta,
        pace: timedelta,
        ends_with: AimaError | Literal["stall"] | None,
        arrived: Callable[[], None],
    ) -> None:
        self._image = image
        self._published = published
        self._stall = stall
        self._pace = pace
        self._ends_with = ends_with
        self._arrived = arrived
        self._closed = Event()

    def __iter__(self) -> Iterator[PullProgress]:
        tracker = PullTracker(self._image, now=time.monotonic())
        messages = _messages(self._published, self._published.layer_ids(self._image))
        for number, message in enumerate(messages):
            self._pause(within=self._pace)
            if number == len(messages) // 2:
                self._halfway(tracker)
            tracker.take(message, now=time.monotonic())
            if number < len(messages) - 1:
                yield tracker.progress(now=time.monotonic())
        self._arrived()
        yield tracker.progress(now=time.monotonic())

    def close(self) -> None:
        self._closed.set()

    def _pause(self, *, within: timedelta) -> None:
        if self._closed.wait(within.total_seconds()):
            raise Cancelled()

    def _halfway(self, tracker: PullTracker) -> None:
        if self._ends_with == "stall":
            self._pause(within=self._stall)
            raise PullStalled(image=self._image, stall=f"{format_duration(self._stall)} at {tracker.waits_for}")
        if isinstance(self._ends_with, AimaError):
            raise self._ends_with


def _messages(published: Published, ids: list[str]) -> list[dict[str, Any]]:
    sized = list(zip(ids, published.layers, strict=True))
    messages: list[dict[str, Any]] = [{"status": "Pulling fs layer", "id": layer} for layer, _ in sized]
    for word, after in (("Downloading", "Download complete"), ("Extracting", "Pull complete")):
        for layer, size in sized:
            messages += [
                {"status": word, "id": layer, "progressDetail": {"current": size * step // STEPS, "total": size}}
                for step in range(1, STEPS + 1)
            ]
            messages.append({"status": after, "id": layer})
    return [*messages, {"status": f"Digest: {digest_of(ids)}"}, {"status": "Status: Downloaded newer image"}]


def digest_of(ids: list[str]) -> str:
    return "sha256:" + sha256(" ".join(ids).encode()).hexdigest()
