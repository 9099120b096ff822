"""Pulls an image onto this host."""

from __future__ import annotations

from aima_core.domain.operations import Phase, PullImage
from aima_worker.attempt import Attempt
from aima_worker.context import HostContext
from aima_worker.operations.images import ensure_image


def pull(host: HostContext, attempt: Attempt, command: PullImage) -> None:
    if host.native:
        attempt.finish(Phase.PULLED, message=f"{host.name} runs native processes, which need no image.")
        return
    image = ensure_image(host, attempt, command.images, size=command.image_size)
    digest = image.digest or "not in any registry"
    attempt.finish(Phase.PULLED, message=f"{image.reference} is on {host.name} ({digest}).")
