"""Follows the pull of one image to a verified end.

The engine reports a failure as one message among others and then ends the stream normally, as it does when it crashes.
So a pull has succeeded only if the engine has reported success and the image is on the host. A pull without progress
for the stall timeout fails with PullStalled; the caller retries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Protocol

from aima_core.domain.operations import PullProgress
from aima_core.domain.units import format_duration
from aima_core.errors import Cancelled, PullBroken, PullStalled
from aima_worker.runtime import ImageFacts
from aima_worker.runtimes.docker.errors import EngineError, pull_failure
from aima_worker.runtimes.pull_progress import PullTracker

PROGRESS_INTERVAL = timedelta(milliseconds=200)
"""Least time between two reports of progress, except before the last."""


class PullMessages(Protocol):
    """The engine's messages during one pull. Read by one thread, closed by any."""

    @property
    def closed(self) -> bool:
        """Whether `close` was called; a stream that the engine has ended is not closed."""
        ...

    def read(self, *, patience: Callable[[], float]) -> Iterator[Mapping[str, Any]]:
        """Each message, until the engine or `close` ends the stream.

        Calls `patience` before each wait for its timeout in seconds. Raises EngineError, DockerUnavailable, or
        TimeoutError if no message arrives in time.
        """
        ...

    def close(self) -> None: ...


class DockerPull:
    """A PullStream. Iterated by one thread, closed by any."""

    def __init__(
        self,
        image: str,
        messages: PullMessages,
        *,
        stall: timedelta,
        inspect: Callable[[str], ImageFacts | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._image = image
        self._messages = messages
        self._stall = stall
        self._inspect = inspect
        self._clock = clock
        self._tracker = PullTracker(image, now=clock())

    def __iter__(self) -> Iterator[PullProgress]:
        try:
            yield from self._followed()
        finally:
            self._messages.close()

    def close(self) -> None:
        self._messages.close()

    def _followed(self) -> Iterator[PullProgress]:
        yielded_at = self._clock() - PROGRESS_INTERVAL.total_seconds()
        for message in self._read():
            self._take(message)
            now = self._clock()
            if now - yielded_at >= PROGRESS_INTERVAL.total_seconds():
                yield self._tracker.progress(now=now)
                yielded_at = self._clock()
                # The stall timeout must not count the time that our reader was blocked.
                self._tracker.moved_at += yielded_at - now
        self._check_success()
        yield self._tracker.progress(now=self._clock())

    def _read(self) -> Iterator[Mapping[str, Any]]:
        try:
            yield from self._messages.read(patience=self._patience)
        except EngineError as refused:
            raise pull_failure(refused.words, image=self._image) from refused
        except TimeoutError as late:
            raise self._stalled() from late
        if self._messages.closed:
            raise Cancelled()

    def _take(self, message: Mapping[str, Any]) -> None:
        if "error" in message:
            raise pull_failure(str(message["error"]), image=self._image)
        self._tracker.take(message, now=self._clock())

    def _patience(self) -> float:
        """Seconds left of the stall timeout. Raises PullStalled once it has expired."""
        left = self._stall.total_seconds() - (self._clock() - self._tracker.moved_at)
        if left <= 0:
            raise self._stalled()
        return left

    def _stalled(self) -> PullStalled:
        return PullStalled(image=self._image, stall=f"{format_duration(self._stall)} at {self._tracker.waits_for}")

    def _check_success(self) -> None:
        present = self._inspect(self._image) is not None  # raises DockerUnavailable if the engine crashed
        if not self._tracker.complete:
            raise PullBroken(
                image=self._image, detail="the Docker Engine ended the pull without reporting success or an error"
            )
        if not present:
            raise PullBroken(image=self._image, detail="the Docker Engine reported success, but the image is missing")
