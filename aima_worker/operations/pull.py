"""Having an image on this host, by itself."""

from __future__ import annotations

from aima_core.domain.operations import Phase, PullImage
from aima_worker.context import Host
from aima_worker.execution.attempt import Undertaking
from aima_worker.operations.images import have_image


def pull(host: Host, undertaking: Undertaking, command: PullImage) -> None:
    if host.native:
        undertaking.end(Phase.PULLED, message=f"{host.name} runs native processes, which have no image.")
        return
    image = have_image(host, undertaking, command.images, size=command.image_size)
    undertaking.end(
        Phase.PULLED, message=f"{image.reference} is on {host.name}, {image.digest or 'which no registry knows'}."
    )
