"""Having an image on this host, by itself."""

from __future__ import annotations

from aima_core.operations import Phase, PullImage
from aima_worker.host import Host
from aima_worker.images import have_image
from aima_worker.undertaking import Undertaking


def pull(host: Host, undertaking: Undertaking, command: PullImage) -> None:
    if host.native:
        undertaking.end(Phase.PULLED, message=f"{host.name} runs native processes, which have no image.")
        return
    image = have_image(host, undertaking, command.images, size=command.image_size)
    undertaking.end(
        Phase.PULLED, message=f"{image.reference} is on {host.name}, {image.digest or 'which no registry knows'}."
    )
