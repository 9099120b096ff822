"""The pull of one image: the engine's own stream, read to its end and not believed before.

The engine tells of a failure as a message among the others, and ends the stream as if all were well. So a pull has
succeeded only when the engine has said so and the image is there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from docker import auth
from docker.errors import DockerException

from aima_core.failures import (
    AimaError,
    Cancelled,
    DiskFull,
    ImageNotFound,
    PullBroken,
    PullStalled,
    RegistryDenied,
)
from aima_core.operations import PullProgress
from aima_core.quantities import format_duration
from aima_worker.pull_progress import PullTracker
from aima_worker.runtime import ImageFacts
from aima_worker.runtimes.docker_client import EngineClient
from aima_worker.runtimes.docker_reference import ImageName, image_name
from aima_worker.runtimes.docker_stream import EngineStream, Refusal

YIELD_SECONDS = 0.125
"""Between two yields at least, but for the last."""

_MEANINGS: tuple[tuple[type[AimaError], tuple[str, ...]], ...] = (
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


def failure_of(image: str, detail: str) -> AimaError:
    """What the engine's words mean. A private repository and one that is not there are told alike: not found."""
    said = detail.lower()
    for meaning, words in _MEANINGS:
        if any(word in said for word in words):
            return meaning(image=image, detail=detail)
    return PullBroken(image=image, detail=detail)


class DockerPull:
    """A PullStream. Iterated by one thread, closed by any."""

    def __init__(
        self,
        engine: EngineClient,
        image: str,
        *,
        stall: timedelta,
        inspect: Callable[[str], ImageFacts | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._image = image
        self._stall = stall
        self._inspect = inspect
        self._clock = clock
        self._tracker = PullTracker(image, now=clock())
        name = _named(image)
        self._stream = EngineStream(
            engine,
            "POST",
            "/images/create",
            # The engine pulls for its own platform unless told otherwise.
            params={"fromImage": name.repository, "tag": name.version},
            headers=_credentials(image, name.registry),
        )

    def __iter__(self) -> Iterator[PullProgress]:
        try:
            yield from self._followed()
        finally:
            self._stream.close()

    def close(self) -> None:
        self._stream.close()

    def _followed(self) -> Iterator[PullProgress]:
        yielded_at = self._clock() - YIELD_SECONDS
        for message in self._messages():
            self._take(message)
            now = self._clock()
            if now - yielded_at >= YIELD_SECONDS:
                yield self._tracker.progress(now=now)
                yielded_at = self._clock()
                # The time that our reader takes is not the registry's.
                self._tracker.moved_at += yielded_at - now
        self._check_success()
        yield self._tracker.progress(now=self._clock())

    def _messages(self) -> Iterator[dict[str, Any]]:
        try:
            self._stream.open(within=self._patience())
            rest = b""
            while chunk := self._stream.next(within=self._patience()):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (json.loads(line) for line in lines if line.strip())
        except Refusal as refused:
            raise failure_of(self._image, str(refused)) from refused
        except TimeoutError as late:
            raise self._stalled() from late
        if self._stream.closed:
            raise Cancelled()

    def _take(self, message: dict[str, Any]) -> None:
        if "error" in message:
            raise failure_of(self._image, str(message["error"]))
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
        if not self._tracker.complete:
            with self._engine.asking() as client:
                client.ping()
            raise PullBroken(image=self._image, detail="the Docker Engine ended it without saying why")
        if self._inspect(self._image) is None:
            raise PullBroken(image=self._image, detail="the Docker Engine called it done, and the image is not there")


def _named(image: str) -> ImageName:
    try:
        return image_name(image)
    except ValueError as bad:
        raise ImageNotFound(image=image, detail=str(bad)) from bad


def _credentials(image: str, registry: str) -> dict[str, str]:
    """From Docker's own configuration and its helpers, read anew: a `docker login` counts from the next pull on."""
    try:
        found = auth.load_config().resolve_authconfig(registry)
    except DockerException as failed:
        raise RegistryDenied(
            image=image, detail=f"the host's credentials for it could not be read: {failed}"
        ) from failed
    return {"X-Registry-Auth": auth.encode_header(found).decode()} if found else {}
