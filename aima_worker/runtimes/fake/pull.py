"""A pull that fetches nothing, in the words a real engine would use. One thread iterates it, any may close it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from threading import Event
from typing import Any, Literal

from aima_core.domain.operations import PullProgress
from aima_core.domain.units import format_duration
from aima_core.errors import AimaError, Cancelled, PullStalled
from aima_worker.runtimes.pull_progress import PullTracker

STEPS = 4
"""Messages to download one layer, and as many to extract it."""


@dataclass(frozen=True)
class Published:
    """An image as its registry has it."""

    layers: tuple[int, ...] = (10_000_000, 20_000_000)
    """Compressed bytes of each."""
    arch: str | None = None
    """None: that of whoever pulls."""
    told: bool = True
    """Whether the registry says which architecture it is before it is pulled."""

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
            self._go_on(within=self._pace)
            if number == len(messages) // 2:
                self._halfway(tracker)
            tracker.take(message, now=time.monotonic())
            if number < len(messages) - 1:
                yield tracker.progress(now=time.monotonic())
        self._arrived()
        yield tracker.progress(now=time.monotonic())

    def close(self) -> None:
        self._closed.set()

    def _go_on(self, *, within: timedelta) -> None:
        if self._closed.wait(within.total_seconds()):
            raise Cancelled()

    def _halfway(self, tracker: PullTracker) -> None:
        if self._ends_with == "stall":
            self._go_on(within=self._stall)
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
