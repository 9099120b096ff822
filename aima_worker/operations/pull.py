"""Having an image on this host, by itself."""

from __future__ import annotations

from aima_core.domain.operations import Phase, PullImage
from aima_worker.context import HostContext
from aima_worker.execution.attempt import Attempt
from aima_worker.operations.images import have_image


def pull(host: HostContext, attempt: Attempt, command: PullImage) -> None:
    if host.native:
        attempt.finish(Phase.PULLED, message=f"{host.name} runs native processes, which have no image.")
        return
    image = have_image(host, attempt, command.images, size=command.image_size)
    attempt.finish(
        Phase.PULLED, message=f"{image.reference} is on {host.name}, {image.digest or 'which no registry knows'}."
    )
