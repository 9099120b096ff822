"""Ensures an image on this host, for a pull or a start: the first candidate present, else the first that can be pulled.

With the pull policy `always`, the registry is asked first; with `never`, it is not asked at all. Broken and stalled
pulls are retried, permanent failures move on to the next candidate. If none succeeds, the most specific failure is
raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

from aima_core.domain.catalog import UNRESOLVED, Engine
from aima_core.domain.fields import PullPolicy
from aima_core.domain.operations import Phase, PullImage, PullProgress
from aima_core.domain.units import format_duration, format_size
from aima_core.errors import (
    AimaError,
    DiskFull,
    ImageNeverPulled,
    ImageNotAllowed,
    ImageNotFound,
    ImageWrongArch,
    NoImagesHere,
    PullBroken,
    PullStalled,
    RegistryDenied,
)
from aima_core.scheduling.feasibility import ROOM_FOR_EXTRACTION, allowed_images
from aima_worker.attempt import Attempt
from aima_worker.context import HostContext
from aima_worker.runtime import ContainerRuntime, ImageFacts
from aima_worker.transfers import SharedTransfers


class WantedImage(NamedTuple):
    candidates: tuple[str, ...]
    """In order of preference."""
    pull: PullPolicy
    size: int | None = None
    """About its disk usage."""
    falls_back: bool = False
    """With `always`, an image that is present is used if its registry is unreachable."""
    build: str | None = None
    """The command that builds it."""

    @classmethod
    def of(cls, engine: Engine) -> WantedImage:
        return cls(engine.images, engine.pull, engine.image_size, falls_back=True, build=engine.build)


class HeldImage(NamedTuple):
    reference: str
    digest: str | None
    """The registry's; None for an image that no registry has."""
    id: str | None
    """None for a native process."""

    @classmethod
    def of(cls, reference: str, facts: ImageFacts) -> HeldImage:
        return cls(reference, facts.digest, facts.id)

    def since(self, before: ImageFacts | None) -> str:
        """What has become of the image that was there before."""
        now = self.digest or UNRESOLVED
        if before is None or before.id == self.id:
            return f"{self.reference} is {'there' if before is None else 'unchanged'} ({now})"
        return f"{self.reference} was updated from {before.digest or UNRESOLVED} to {now}"


NO_IMAGE = HeldImage("", None, None)
"""Of a native process."""


def pull(host: HostContext, attempt: Attempt, command: PullImage) -> None:
    """Raises NoImagesHere on a host of native processes, and what `ensure_image` raises."""
    if host.native:
        raise NoImagesHere(host=host.name)
    before = {image: host.runtime.image(image) for image in command.images}
    image = ensure_image(host, attempt, WantedImage(command.images, command.pull, command.image_size))
    outcome = f"{image.reference} is on {host.name} ({image.digest or UNRESOLVED})"
    if command.pull == "always":
        outcome = f"{host.name}: {image.since(before[image.reference])}"
    attempt.finish(Phase.PULLED, message=f"{outcome}.")


def ensure_image(host: HostContext, attempt: Attempt, wanted: WantedImage) -> HeldImage:
    """Returns a candidate that is on the host, for its platform.

    Raises ImageNotAllowed, ImageNeverPulled, ImageWrongArch, DiskFull, and what a pull raises.
    """
    allowed = allowed_images(wanted.candidates, host.settings.host.images)
    if not allowed:
        raise ImageNotAllowed(host=host.name, image=wanted.candidates[0])
    found = {image: facts for image in allowed if (facts := host.runtime.image(image)) is not None}
    present = {image: facts for image, facts in found.items() if facts.arch == host.arch}
    if present and wanted.pull != "always":
        return HeldImage.of(*next(iter(present.items())))
    failures: list[AimaError] = [
        _wrong_arch(host, image, facts.arch) for image, facts in found.items() if image not in present
    ]
    if wanted.pull == "never":
        raise failures[0] if failures else _never_pulled(host, allowed[0], wanted.build)
    # A pull ends with its worker, and half-fetched layers are lost: the byte counts go back.
    again = " again: the worker that was pulling it shut down" if attempt.operation.progress is not None else ""
    attempt.enter_phase(Phase.PULLING, f"Pulling {allowed[0]}{again}")
    if not present:
        _check_disk_space(host, allowed[0], wanted.size)
    image = _pull_first_available(host, attempt, allowed, failures, fallback=present if wanted.falls_back else {})
    if wanted.falls_back and present:
        attempt.report(f"{image.since(found.get(image.reference))}.")
    return image


def _never_pulled(host: HostContext, image: str, build: str | None) -> ImageNeverPulled:
    how = f"`{build}`" if build else "its engine's file says how (`aima engine show`)"
    why = f"{host.name} lacks it, and with `pull: never` no registry is asked for it."
    return ImageNeverPulled(image=image, why=why, remedy=f"Build it on {host.name}: {how}.")


def _check_disk_space(host: HostContext, image: str, size: int | None) -> None:
    if size is None:
        return
    needed = int(size * ROOM_FOR_EXTRACTION)
    free = host.runtime.facts().disk_free
    if free is not None and free < needed:
        raise DiskFull(image=image, detail=f"it needs about {format_size(needed)}, and {format_size(free)} are free")


def _pull_first_available(
    host: HostContext,
    attempt: Attempt,
    images: Sequence[str],
    failures: list[AimaError],
    *,
    fallback: Mapping[str, ImageFacts],
) -> HeldImage:
    for image in images:
        try:
            _pull(host, attempt, image)
            return HeldImage.of(image, _check_pulled(host, image))
        except (ImageNotFound, RegistryDenied, PullBroken, PullStalled, ImageWrongArch) as failed:
            unreachable = isinstance(failed, PullBroken | PullStalled)
            if unreachable and (present := fallback.get(image)):
                attempt.report(f"{_sentence(failed)} Using the image that is present.")
                return HeldImage.of(image, present)
            failures.append(failed)
            then = " Trying the next image." if image != images[-1] else ""
            attempt.report(f"{_sentence(failed)}{then}")
    more_than_a_wrong_name = (failed for failed in failures if not isinstance(failed, ImageNotFound))
    raise next(more_than_a_wrong_name, failures[0])


def _pull(host: HostContext, attempt: Attempt, image: str) -> None:
    offered = attempt.run_in_thread(lambda: host.runtime.registry_architectures(image))
    if offered and host.arch not in offered:
        raise _wrong_arch(host, image, " and ".join(sorted(offered)))
    progress = None
    for delay in (*host.timings.pull_retry_delays, None):
        try:
            for progress in host.pulls.follow(image, attempt):
                attempt.report(progress=progress)
            return
        except DiskFull as full:
            raise _with_sizes(host, image, full, progress) from full
        except (PullBroken, PullStalled) as failed:
            if delay is None:
                raise
            attempt.report(f"{_sentence(failed)} Trying again in {format_duration(delay)}.")
            attempt.sleep(delay)


def _with_sizes(host: HostContext, image: str, full: DiskFull, progress: PullProgress | None) -> DiskFull:
    """The engine's own words, the size of the layers, and the space that is free now that it has cleaned up."""
    detail, free = str(full.facts["detail"]).rstrip("."), host.runtime.facts().disk_free
    if progress is not None and progress.total:
        at_least = "" if progress.total_known else "at least "
        detail += f". Its layers are {at_least}{format_size(progress.total)} before they are unpacked"
    if free is not None:
        detail += f", and {format_size(free)} are free"
    return DiskFull(image=image, detail=f"{detail}.")


def _check_pulled(host: HostContext, image: str) -> ImageFacts:
    facts = host.runtime.image(image)
    if facts is None:
        raise PullBroken(image=image, detail="the pull succeeded, but the image is missing")
    if facts.arch != host.arch:
        raise _wrong_arch(host, image, facts.arch)
    return facts


def _wrong_arch(host: HostContext, image: str, arch: str) -> ImageWrongArch:
    return ImageWrongArch(image=image, image_arch=arch, host=host.name, host_arch=host.arch)


def _sentence(failed: AimaError) -> str:
    """Ended by a full stop, also where it ends with the engine's own words."""
    return f"{str(failed).rstrip('.')}."


class PullCoordinator:
    """One pull per image on this host."""

    def __init__(self, runtime: ContainerRuntime, *, stall: timedelta) -> None:
        self.images_changed: Callable[[], None] = lambda: None
        """Called after a pull or a removal; set by the composition root."""
        self._runtime = runtime
        self._stall = stall
        self._pulls = SharedTransfers[PullProgress]("pull")
        self._pulls.finished = lambda: self.images_changed()

    def follow(self, image: str, attempt: Attempt) -> Iterator[PullProgress]:
        """Joins the image's pull, or starts it; yields its progress and ends when the image is present.

        Raises what the runtime's pull raises, and at once what cancels the attempt.
        """
        return self._pulls.follow(image, attempt, lambda: self._runtime.pull(image, stall=self._stall))
