"""Removes images and models from this host, never by force: what a container or a running operation uses stays.

The order of an image's removal names the reference as the host lists it, so that a prefix of an id removes nothing. A
pinned model is neither removed nor collected.
"""

from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from aima_core.domain.ids import Route
from aima_core.domain.models import CollectionEntry
from aima_core.domain.operations import (
    Event,
    Kind,
    Operation,
    Phase,
    PinModel,
    PruneModels,
    RemoveImage,
    RemoveModel,
    State,
)
from aima_core.domain.units import counted, format_size
from aima_core.errors import (
    ImageAbsent,
    ImageInUse,
    ModelAbsent,
    ModelInUse,
    ModelPinned,
    ModelStoreUnusable,
    NoImagesHere,
)
from aima_worker.attempt import Attempt
from aima_worker.context import HostContext
from aima_worker.models.collection import Collected, Mounted
from aima_worker.operations.container_spec import model_of, ours
from aima_worker.runtime import Container, Status


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
    """Raises ModelAbsent, ModelPinned, ModelInUse, ModelStoreUnusable."""
    model, uses = command.model, host.models.uses
    attempt.enter_phase(Phase.REMOVING, f"Removing {model}")
    changes = uses.changes()
    if uses.pins()(model):
        raise ModelPinned(model=model, host=host.name)
    users = [each.by for each in mounted_models(host) if each.manifest and each.manifest.model == model]
    users += uses.users_of_model(model)
    if named := ", ".join(sorted(users)):
        raise ModelInUse(model=model, host=host.name, users=named)
    freed = host.collector.remove(model, changes)
    attempt.finish(Phase.REMOVED, message=f"{model} was removed from {host.name} ({format_size(freed)}).")


def pin_model(host: HostContext, attempt: Attempt, command: PinModel) -> None:
    """Idempotent, also an unpin of a model that is absent. Raises ModelAbsent, ModelStoreUnusable."""
    model, pinned = command.model, command.kind is Kind.PIN_MODEL
    if pinned and all(each.manifest.model != model for each in host.models.places()):
        raise ModelAbsent(model=model, where=f"on {host.name}")
    try:
        host.models.uses.pin(model, pinned=pinned)
    except OSError as failed:
        detail = failed.strerror or str(failed)
        raise ModelStoreUnusable(host=host.name, store=host.models.root, detail=detail) from failed
    host.models.changed()
    attempt.finish(Phase.DONE, message=f"{model} on {host.name} is {'pinned' if pinned else 'not pinned'}.")


def prune_models(host: HostContext, attempt: Attempt, command: PruneModels) -> None:
    """Raises what a runtime's listing raises."""
    if not command.dry_run:
        attempt.enter_phase(Phase.REMOVING, "Removing models that nothing uses")
    entries = host.collector.prune(all=command.all, dry_run=command.dry_run)
    would = "would be" if command.dry_run else "were"
    message = f"{_sum_of(entries)} {would} removed from {host.name}."
    attempt.finish(Phase.DONE if command.dry_run else Phase.REMOVED, message=message, collection=entries)


def record_collection(host: HostContext, collected: Collected) -> None:
    """Records a collection without an order as an operation that has ended. Idempotent. Raises BrokerUnavailable."""
    phase, route = Phase.REMOVED, Route.to_host(host.name)
    operation = Operation(
        id=collected.id,
        kind=Kind.PRUNE_MODELS,
        state=State.SUCCEEDED,
        phase=phase,
        fence=0,
        route=route,
        routes=(route,),
        host=host.name,
        created_at=collected.at,
        started_at=collected.at,
    )
    message = f"{_sum_of(collected.entries)} were removed from {host.name}: {collected.why}."
    event = Event(operation=collected.id, at=collected.at, phase=phase, host=host.name, message=message)
    host.operations.record_ended(operation, event.model_copy(update={"collection": collected.entries}))


def mounted_models(host: HostContext) -> list[Mounted]:
    """By the signed commands in containers' labels, whether or not they run: a restart would mount the files again.

    A revision that a change may restore counts, too. It is read before the containers are listed, since its container
    exists before it is forgotten (race). Raises DockerUnavailable, EngineRefused.
    """
    previous = [(service, host.fences.previous(service)) for service in sorted(host.fences.changing())]
    named = [(f"the previous revision of {service}@{host.name}", each.labels) for service, each in previous if each]
    found = [_mounted(labels, by) for by, labels in named]
    for container in host.runtime.containers(ours(host)):
        running = container.status is Status.RUNNING
        found.append(_mounted(container.labels, _user(host, container), running=running))
    return [each for each in found if each]


def _mounted(labels: Mapping[str, str], by: str, *, running: bool = False) -> Mounted | None:
    try:
        manifest = model_of(labels)
    except ValidationError:
        return Mounted(None, by, running=running)
    return Mounted(manifest, by, running=running) if manifest else None


def _sum_of(entries: Sequence[CollectionEntry]) -> str:
    """`2 of 5 models (70.1 GB)`"""
    removed = [each.freed or 0 for each in entries if each.kept is None]
    return f"{len(removed)} of {counted(len(entries), 'model')} ({format_size(sum(removed))})"


def _user(host: HostContext, container: Container) -> str:
    """The instance, by its labels; the container of anyone else by its name."""
    if ours(host).items() <= container.labels.items() and "aima.service" in container.labels:
        return f"{container.labels['aima.service']}@{host.name}"
    return f"the container {container.name}"
