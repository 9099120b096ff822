"""The pull of one image: followed to its end, and not believed before.

The engine tells of a failure as a message among the others, and ends the stream as if all were well. So a pull has
succeeded only when the engine has said so and the image is there.
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
    """What the engine says during one pull. Read by one thread, closed by any."""

    @property
    def closed(self) -> bool:
        """Whether `close` was called; what the engine has ended is not closed."""
        ...

    def read(self, *, patience: Callable[[], float]) -> Iterator[Mapping[str, Any]]:
        """Each message, in the engine's own words, until the engine or `close` ends it.

        Asks `patience` before each wait for how many seconds it may be. Raises Refusal, DockerUnavailable, or
        TimeoutError when nothing came for so long.
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
                # The time that our reader takes is not the registry's.
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
        """How long the engine may still say nothing that moves the pull. Raises PullStalled when that is over."""
        left = self._stall.total_seconds() - (self._clock() - self._tracker.moved_at)
        if left <= 0:
            raise self._stalled()
        return left

    def _stalled(self) -> PullStalled:
        return PullStalled(image=self._image, stall=f"{format_duration(self._stall)} at {self._tracker.waits_for}")

    def _check_success(self) -> None:
        there = self._inspect(self._image) is not None  # an engine that died says so here
        if not self._tracker.complete:
            raise PullBroken(image=self._image, detail="the Docker Engine ended it without saying why")
        if not there:
            raise PullBroken(image=self._image, detail="the Docker Engine called it done, and the image is not there")
