"""Follows the pull of one image to a verified end: success is reported, and the image is on the host.

The engine reports a failure as one message among others and then ends the stream normally, as it does when it crashes.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

from docker import auth
from docker.errors import DockerException

from aima_core.domain.operations import PullProgress
from aima_core.domain.units import format_duration
from aima_core.errors import (
    AimaError,
    Cancelled,
    DiskFull,
    EngineRefused,
    ImageNotFound,
    PullBroken,
    PullStalled,
    RegistryDenied,
)
from aima_worker.runtime import ImageFacts
from aima_worker.runtimes.docker.parsing import image_name
from aima_worker.runtimes.docker.sdk.client import EngineClient
from aima_worker.runtimes.docker.sdk.stream import EngineStream
from aima_worker.runtimes.pull_progress import PullTracker

PROGRESS_INTERVAL = timedelta(milliseconds=200)
"""Least time between two reports of progress, except before the last."""

# The engine has no codes for these failures, so its words are matched; an unknown message is PullBroken: retried.
_FAILURES: tuple[tuple[type[AimaError], tuple[str, ...]], ...] = (
    (DiskFull, ("no space left on device", "disk quota exceeded", "not enough space")),
    (
        ImageNotFound,
        (
            "manifest unknown",
            "name unknown",
            "repository name not known",
            "does not exist",
            "not found",
            "no matching manifest",
            "no such image",
            "invalid reference format",
        ),
    ),
    (RegistryDenied, ("denied", "unauthorized", "no basic auth", "forbidden", "authentication required")),
)


class DockerPull:
    """A PullStream."""

    def __init__(
        self, engine: EngineClient, image: str, *, stall: timedelta, inspect: Callable[[str], ImageFacts | None]
    ) -> None:
        self._image = image
        self._stall = stall
        self._inspect = inspect
        self._tracker = PullTracker(image, now=time.monotonic())
        try:
            name = image_name(image)
        except ValueError as bad:
            raise ImageNotFound(image=image, detail=str(bad)) from bad
        # Without a platform, the engine pulls for its own.
        params = {"fromImage": name.repository, "tag": name.version}
        headers = _credentials(image, name.registry)
        self._stream = EngineStream(engine, "POST", "/images/create", params=params, headers=headers)

    def __iter__(self) -> Iterator[PullProgress]:
        try:
            yield from self._followed()
        finally:
            self.close()

    def close(self) -> None:
        self._stream.close()

    def _followed(self) -> Iterator[PullProgress]:
        yielded_at = float("-inf")
        for message in self._messages():
            now = time.monotonic()
            self._tracker.take(message, now=now)
            if now - yielded_at >= PROGRESS_INTERVAL.total_seconds():
                yield self._tracker.progress(now=now)
                yielded_at = time.monotonic()
                # The stall timeout must not count the time that our reader was blocked.
                self._tracker.moved_at += yielded_at - now
        self._check_success()
        yield self._tracker.progress(now=time.monotonic())

    def _messages(self) -> Iterator[Mapping[str, Any]]:
        try:
            for message in map(json.loads, self._stream.lines(within=self._patience)):
                if "error" in message:
                    raise self._failure(str(message["error"]))
                yield message
        except EngineRefused as refused:
            raise self._failure(str(refused.facts["detail"])) from refused
        except TimeoutError as late:
            raise self._stalled() from late
        if self._stream.closed:
            raise Cancelled()

    def _patience(self) -> float:
        """Seconds left of the stall timeout. Raises PullStalled once it has expired."""
        left = self._stall.total_seconds() - (time.monotonic() - self._tracker.moved_at)
        if left <= 0:
            raise self._stalled()
        return left

    def _stalled(self) -> PullStalled:
        return PullStalled(image=self._image, stall=f"{format_duration(self._stall)} at {self._tracker.waits_for}")

    def _failure(self, words: str) -> AimaError:
        """Registries report a private repository and a missing one alike: as not found."""
        for meaning, signs in _FAILURES:
            if any(sign in words.lower() for sign in signs):
                return meaning(image=self._image, detail=words)
        return PullBroken(image=self._image, detail=words)

    def _check_success(self) -> None:
        present = self._inspect(self._image) is not None  # raises DockerUnavailable if the engine crashed
        if not self._tracker.complete:
            raise PullBroken(
                image=self._image, detail="the Docker Engine ended the pull without reporting success or an error"
            )
        if not present:
            raise PullBroken(image=self._image, detail="the Docker Engine reported success, but the image is missing")


def _credentials(image: str, registry: str) -> dict[str, str]:
    """From Docker's configuration and its helpers, without a cache: a `docker login` takes effect at the next pull."""
    try:
        found = auth.load_config().resolve_authconfig(registry)
    except DockerException as failed:
        raise RegistryDenied(
            image=image, detail=f"the host's credentials for the registry cannot be read: {failed}"
        ) from failed
    return {"X-Registry-Auth": auth.encode_header(found).decode()} if found else {}
