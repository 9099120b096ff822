"""Having an image on this host: whichever candidate is here already, else the first that can be pulled.

What may pass is tried again; what cannot is not, and the next candidate has its turn. Each attempt is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import NamedTuple

from aima_core.domain.operations import Phase, PullProgress
from aima_core.domain.units import format_duration, format_size
from aima_core.errors import (
    AimaError,
    DiskFull,
    ImageNotAllowed,
    ImageNotFound,
    ImageWrongArch,
    PullBroken,
    PullStalled,
    RegistryDenied,
)
from aima_core.scheduling.feasibility import ROOM_FOR_EXTRACTION
from aima_worker.context import HostContext
from aima_worker.execution.attempt import Attempt
from aima_worker.runtime import ImageFacts

WAITS_BEFORE_ANOTHER_TRY = (timedelta(seconds=1), timedelta(seconds=4))


class HeldImage(NamedTuple):
    reference: str
    digest: str | None
    """The registry's; None for an image that no registry knows."""


NO_IMAGE = HeldImage("", None)
"""What a native process runs from."""


def have_image(host: HostContext, attempt: Attempt, images: Sequence[str], *, size: int | None) -> HeldImage:
    """Have one of the images on the host, for its platform.

    Raises ImageNotAllowed, ImageWrongArch, DiskFull, and what a pull raises, of the candidate that came furthest.
    """
    allowed = _allowed(host, images)
    failures: list[AimaError] = []
    for image in allowed:
        if (facts := host.runtime.image(image)) is None:
            continue
        if facts.arch == host.arch:
            return HeldImage(image, facts.digest)
        failures.append(_wrong_arch(host, image, facts))
    attempt.enter_phase(Phase.PULLING, f"Pulling {allowed[0]}{_anew(attempt)}")
    _check_room(host, allowed[0], size)
    return _first_that_comes(host, attempt, allowed, failures)


def _anew(attempt: Attempt) -> str:
    """A pull ends with its worker, and what had come of a layer is lost: the numbers go back."""
    return " anew, since the worker that pulled it ended" if attempt.operation.progress is not None else ""


def _allowed(host: HostContext, images: Sequence[str]) -> list[str]:
    patterns = host.settings.host.images
    allowed = [image for image in images if any(fnmatchcase(image, pattern) for pattern in patterns)]
    if not allowed:
        raise ImageNotAllowed(host=host.name, image=images[0])
    return allowed


def _check_room(host: HostContext, image: str, size: int | None) -> None:
    if size is None:
        return
    needed = int(size * ROOM_FOR_EXTRACTION)
    free = host.runtime.facts().disk_free
    if free is not None and free < needed:
        raise DiskFull(image=image, detail=f"it needs about {format_size(needed)}, and {format_size(free)} are free")


def _first_that_comes(
    host: HostContext, attempt: Attempt, images: Sequence[str], failures: list[AimaError]
) -> HeldImage:
    for image in images:
        try:
            _pull(host, attempt, image)
            return HeldImage(image, _checked(host, image).digest)
        except (ImageNotFound, RegistryDenied, PullBroken, PullStalled, ImageWrongArch) as failed:
            failures.append(failed)
            attempt.report_message(f"{_told(failed)} Trying the next." if image != images[-1] else _told(failed))
    raise _most_telling(failures)


def _pull(host: HostContext, attempt: Attempt, image: str) -> None:
    offered = attempt.run_in_thread(lambda: host.runtime.registry_architectures(image))
    if offered and host.arch not in offered:
        raise ImageWrongArch(image=image, image_arch=_listed(offered), host=host.name, host_arch=host.arch)
    progress = None
    for wait in (*WAITS_BEFORE_ANOTHER_TRY, None):
        try:
            for progress in host.pulls.follow(image, attempt):
                attempt.report_progress(progress)
            return
        except DiskFull as full:
            raise _with_sizes(host, image, full, progress) from full
        except (PullBroken, PullStalled) as failed:
            if wait is None:
                raise
            attempt.report_message(f"{_told(failed)} Trying again in {format_duration(wait)}.")
            attempt.sleep(wait.total_seconds())


def _with_sizes(host: HostContext, image: str, full: DiskFull, progress: PullProgress | None) -> DiskFull:
    """The engine's own words, what was to be fetched, and what room there is now that it has cleared up."""
    detail, free = str(full.facts["detail"]).rstrip("."), host.runtime.facts().disk_free
    if progress is not None and progress.total:
        at_least = "" if progress.total_known else "at least "
        detail += f". Its layers are {at_least}{format_size(progress.total)} before they are unpacked"
    if free is not None:
        detail += f", and {format_size(free)} are free"
    return DiskFull(image=image, detail=f"{detail}.")


def _checked(host: HostContext, image: str) -> ImageFacts:
    facts = host.runtime.image(image)
    if facts is None:
        raise PullBroken(image=image, detail="the pull ended well, and the image is not there")
    if facts.arch != host.arch:
        raise _wrong_arch(host, image, facts)
    return facts


def _wrong_arch(host: HostContext, image: str, facts: ImageFacts) -> ImageWrongArch:
    return ImageWrongArch(image=image, image_arch=facts.arch, host=host.name, host_arch=host.arch)


def _told(failed: AimaError) -> str:
    """Its sentence, also where it ends with the engine's own words."""
    return f"{str(failed).rstrip('.')}."


def _listed(arches: Iterable[str]) -> str:
    return " and ".join(sorted(arches))


def _most_telling(failures: Sequence[AimaError]) -> AimaError:
    """The first that is about more than a name that does not exist."""
    return next((failed for failed in failures if not isinstance(failed, ImageNotFound)), failures[0])
