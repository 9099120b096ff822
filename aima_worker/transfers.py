"""Transfers that operations share: one per key on this host, such as the pull of an image or the fetch of a model.

Concurrent operations follow one transfer, and leave it by themselves: a cancel of one does not cancel the others. The
thread of the transfer is closed once no operation follows it any longer.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import timedelta
from threading import Condition, Lock, Thread
from threading import Event as Flag
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from aima_core.errors import AimaError
from aima_core.system.pacing import Pacing

if TYPE_CHECKING:  # an operation's attempt is made above the runtimes, which measure their rates by this module
    from aima_worker.attempt import Attempt

RATE_WINDOW = timedelta(seconds=5)
RATE_NEEDS = timedelta(milliseconds=500)
"""A rate over a shorter time would be noise."""
Progress = TypeVar("Progress", covariant=True)
Snapshot = TypeVar("Snapshot")


class Transfer(Protocol[Progress]):
    def __iter__(self) -> Iterator[Progress]:
        """Snapshots of the progress; ends once the transfer is complete, and raises an AimaError otherwise."""
        ...

    def close(self) -> None:
        """Cancels the transfer, from any thread: the iterator ends within two seconds."""
        ...


class SharedTransfers(Generic[Snapshot]):
    def __init__(self, name: str) -> None:
        self.finished: Callable[[], None] = lambda: None
        """Called after a transfer that succeeded; set by the composition root."""
        self._name = name
        self._running: dict[str, _Running[Snapshot]] = {}
        self._changed = Condition()

    def follow(self, key: str, attempt: Attempt, start: Callable[[], Transfer[Snapshot]]) -> Iterator[Snapshot]:
        """Joins the transfer of the key, or starts it; yields its progress and ends when it is complete.

        Raises what the transfer raises, and at once what cancels the attempt.
        """
        running = self._join(key, start)
        try:
            with attempt.close_on_cancel(self._wake):
                yield from self._progress_of(running, attempt)
        finally:
            self._leave(key, running)

    def keys(self) -> list[str]:
        """Of the transfers that are running."""
        with self._changed:
            return [key for key, running in self._running.items() if not running.done]

    def _progress_of(self, running: _Running[Snapshot], attempt: Attempt) -> Iterator[Snapshot]:
        seen: Snapshot | None = None
        while True:
            with self._changed:
                while not (running.done or running.progress is not seen or attempt.cancelled):
                    self._changed.wait()
                latest, done = running.progress, running.done
            attempt.raise_if_cancelled()
            if latest is not None and latest is not seen:
                yield latest
                seen = latest
            elif done:
                break
        if running.failure is not None:
            raise running.failure

    def _join(self, key: str, start: Callable[[], Transfer[Snapshot]]) -> _Running[Snapshot]:
        with self._changed:
            running = self._running.get(key)
            if running is None or running.done:
                running = self._running[key] = _Running(start())
                Thread(target=self._run, args=(running,), name=f"{self._name} {key}", daemon=True).start()
            running.followers += 1
            return running

    def _leave(self, key: str, running: _Running[Snapshot]) -> None:
        with self._changed:
            running.followers -= 1
            abandoned = running.followers == 0
            if abandoned and self._running.get(key) is running:
                del self._running[key]
        if abandoned:
            running.transfer.close()

    def _run(self, running: _Running[Snapshot]) -> None:
        failure: AimaError | None = AimaError(detail=f"the {self._name} thread died")
        try:
            for progress in running.transfer:
                running.progress = progress
                self._wake()
            failure = None
            self.finished()
        except AimaError as failed:
            failure = failed
        finally:
            running.failure, running.done = failure, True
            self._wake()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class _Running(Generic[Snapshot]):
    def __init__(self, transfer: Transfer[Snapshot]) -> None:
        self.transfer = transfer
        self.progress: Snapshot | None = None
        self.failure: AimaError | None = None
        self.done = False
        self.followers = 0


class RateLimit:
    """Paces the threads of a transfer."""

    def __init__(self, rate: Callable[[], float | None], *, stop: Flag) -> None:
        """`rate` in bytes per second, None without a limit."""
        self._rate = rate
        self._stop = stop
        self._pacing = Pacing()
        self._lock = Lock()

    def wait(self, size: int) -> None:
        """Until `size` more bytes keep the rate, or the transfer is stopped."""
        rate = self._rate()
        if rate is None:
            return
        with self._lock:
            delay = self._pacing.delay(size, rate, now=time.monotonic())
        if delay > 0:
            self._stop.wait(delay)


class RateWindow:
    """The rate over the last seconds. Pure: time is an argument. Not thread-safe."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, received: int, *, now: float) -> None:
        """`received` counts all bytes so far, and never decreases."""
        self._samples.append((now, received))
        while now - self._samples[0][0] > RATE_WINDOW.total_seconds():
            self._samples.popleft()

    def rate(self, received: int, *, now: float) -> float | None:
        """Bytes per second; None while it is not known."""
        if not self._samples:
            return None
        since, before = self._samples[0]
        span = now - since
        return (received - before) / span if span >= RATE_NEEDS.total_seconds() else None
