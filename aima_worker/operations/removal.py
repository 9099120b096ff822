"""Removes an image or a model from this host, never by force: what a container or a running operation uses stays.

The order of an image's removal names the reference as the host lists it, so that a prefix of an id removes nothing.
"""

from pydantic import ValidationError

from aima_core.domain.operations import Phase, RemoveImage, RemoveModel, StartService
from aima_core.domain.units import format_size
from aima_core.errors import ImageAbsent, ImageInUse, ModelInUse, NoImagesHere
from aima_worker.attempt import Attempt
from aima_worker.context import HostContext
from aima_worker.operations.container_spec import COMMAND_LABEL, ours
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


def remove_model(host: HostContext, attempt: Attempt, command: RemoveModel) -> None:
    """Raises ModelAbsent, ModelInUse, ModelStoreUnusable."""
    model = command.model
    attempt.enter_phase(Phase.REMOVING, f"Removing {model}")
    containers = host.runtime.containers(ours(host))
    users = [_user(host, each) for each in containers if _mounts_stored(each, model)]
    users += [f"operation {id}" for id in host.claims.users_of_model(model)]
    if named := ", ".join(sorted(users)):
        raise ModelInUse(model=model, host=host.name, users=named)
    freed = host.models.remove(model)
    attempt.finish(Phase.REMOVED, message=f"{model} was removed from {host.name} ({format_size(freed)}).")


def _mounts_stored(container: Container, model: str) -> bool:
    """By its signed start command, whether or not it runs: a restart would mount the files again."""
    try:
        started = StartService.model_validate_json(container.labels.get(COMMAND_LABEL, ""))
    except ValidationError:
        return False
    return started.fetches is not None and started.fetches.model == model


def _user(host: HostContext, container: Container) -> str:
    """The instance, by its labels; the container of anyone else by its name."""
    if ours(host).items() <= container.labels.items() and "aima.service" in container.labels:
        return f"{container.labels['aima.service']}@{host.name}"
    return f"the container {container.name}"
