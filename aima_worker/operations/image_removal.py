"""Removes an image from this host, never by force: an image that a container or a running operation uses stays.

The order names the reference as the host lists it, so that a prefix of an id removes nothing.
"""

from aima_core.domain.operations import Phase, RemoveImage
from aima_core.domain.units import format_size
from aima_core.errors import ImageAbsent, ImageInUse, NoImagesHere
from aima_worker.attempt import Attempt
from aima_worker.context import HostContext
from aima_worker.operations.container_spec import ours
from aima_worker.runtime import Container


def remove_image(host: HostContext, attempt: Attempt, command: RemoveImage) -> None:
    """Raises NoImagesHere, ImageAbsent, ImageInUse."""
    if host.native:
        raise NoImagesHere(host=host.name)
    image = command.image
    attempt.enter_phase(Phase.REMOVING, f"Removing {image}")
    found = next((each for each in host.runtime.images() if each.reference == image), None)
    if found is None:
        raise ImageAbsent(image=image, where=f"on {host.name}")
    users = [_user(host, each) for each in host.runtime.containers({}) if each.image_id == found.id]
    users += [f"operation {id}" for id in host.claims.users_of_image(image)]
    if users:
        raise ImageInUse(image=image, host=host.name, users=", ".join(sorted(users)))
    host.runtime.remove_image(image)
    host.pulls.images_changed()
    size = f" ({format_size(found.size)})" if found.size else ""
    attempt.finish(Phase.REMOVED, message=f"{image} was removed from {host.name}{size}.")


def _user(host: HostContext, container: Container) -> str:
    """The instance, by its labels; the container of anyone else by its name."""
    if ours(host).items() <= container.labels.items() and "aima.service" in container.labels:
        return f"{container.labels['aima.service']}@{host.name}"
    return f"the container {container.name}"
