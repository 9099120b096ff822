"""Taking on a container that is here for what its labels say: its records, and what it holds, are put back."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog

from aima_core.domain.ids import Route
from aima_core.domain.operations import Kind, Operation, Phase, State
from aima_core.domain.resources import Allocation, host_memory_of, resources_of
from aima_core.domain.services import Desired, Instance, InstanceState, Service
from aima_core.errors import OperationLost
from aima_core.store.operations import now
from aima_worker.context import HostContext
from aima_worker.operations.readiness import answers_well, endpoint, patience_with
from aima_worker.operations.teardown import update_status
from aima_worker.reconciler.inventory import ManagedContainer, known_by_labels
from aima_worker.runtime import Container, Status

_log = structlog.get_logger()


def adopt(host: HostContext, seen: ManagedContainer, *, instead_of: Instance | None) -> None:
    """Put back its records, in the place of one that is out of date; unless all has changed since it was seen.

    Raises DockerUnavailable, BrokerUnavailable.
    """
    with host.service_lock(seen.service):
        known = _as_it_is_now(host, seen)
        if known is None or known.container.status is Status.CREATED:
            return
        instance = _instance(host, known, _state(host, known), fence=_fence(known, instead_of))
        seen_with = instead_of.fence if instead_of else None
        if not host.services.adopt(instance, _service(known), seen_with=seen_with):
            return
        _log.warning("adopted", container=known.container.name, instance=known.id, state=instance.state)
        hold(host, known, instance)
    if instance.state is InstanceState.STARTING:
        _put_down_its_start(host, known)


def hold(host: HostContext, known: ManagedContainer, instance: Instance | None) -> None:
    """Put down the port, memory and GPUs that a container has: the container is the ground truth."""
    fence, loading = _fence(known, instance), instance is not None and instance.state is InstanceState.STARTING
    if not host.ports.persist(known.id, known.port, fence=fence):
        _log.warning("somebody else holds the port of a container", instance=known.id, port=known.port)
    needs = resources_of(known.command.engine, known.command.model)
    memory = host_memory_of(needs, unified=host.capacity().unified)
    holding = Allocation(memory=memory, gpus=known.granted.gpus, loading=loading, fence=fence)
    host.allocations.keep(host.name, known.service, holding)


def become_ready(host: HostContext, instance: Instance, known: ManagedContainer) -> None:
    """It answers, though nobody was waiting for it."""
    ready = _instance(host, known, InstanceState.READY, fence=instance.fence)
    if update_status(host, ready, operation=instance.operation):
        _log.info("what was half made is ready", instance=instance.id)
        hold(host, known, ready)
        host.capacity_freed.set()


def _as_it_is_now(host: HostContext, seen: ManagedContainer) -> ManagedContainer | None:
    """Asked anew, where nobody else can act; None once it is gone, or something is under way."""
    container = host.runtime.find(seen.container.name)
    if container is None or host.claims.is_running(seen.service):
        return None
    return known_by_labels(host, container)


def _state(host: HostContext, known: ManagedContainer) -> InstanceState:
    if not known.runs:
        return InstanceState.RESTARTING
    if answers_well(host, known):
        return InstanceState.READY
    running_for = now() - _began(known.container)
    return InstanceState.STARTING if running_for < patience_with(known) else InstanceState.UNHEALTHY


def _began(container: Container) -> datetime:
    return container.started_at or datetime.now(UTC)


def _fence(known: ManagedContainer, instance: Instance | None) -> int:
    """A container that a later start found to be as it wanted it keeps the labels of the earlier one."""
    return max(known.fence, instance.fence if instance else 0)


def _instance(host: HostContext, known: ManagedContainer, state: InstanceState, *, fence: int) -> Instance:
    image = host.runtime.image(known.image) if known.image else None
    return Instance(
        id=known.id,
        desired=Desired.RUNNING,
        fence=fence,
        state=state,
        engine=known.command.engine.name,
        image=known.image or None,
        digest=image and image.digest,
        port=known.port,
        endpoint=endpoint(host, known),
        operation=known.granted.operation,
        since=now(),
    )


def _service(known: ManagedContainer) -> Service:
    """As it was asked for when the container was made; without that, as far as one container tells."""
    command = known.command
    return command.asked or Service(
        id=known.service,
        engine=command.engine.name,
        model=command.model and command.model.name,
        model_path=command.model_path,
        hosts=(known.id.host,),
        port=command.port,
        arguments=command.engine.arguments,
        created_at=now(),
    )


def _put_down_its_start(host: HostContext, known: ManagedContainer) -> None:
    """It was under way when its record was lost: one that had ended would have left an engine that answers."""
    if known.granted.operation is None:
        return
    began = _began(known.container)
    start = Operation(
        id=known.granted.operation,
        kind=Kind.START,
        state=State.FAILED,
        phase=Phase.FAILED,
        fence=known.fence,
        route=Route.to_host(host.name),
        service=known.service,
        engine=known.command.engine.name,
        host=host.name,
        failure=OperationLost().failure,
        created_at=began,
        started_at=began,
    )
    host.operations.record_lost(start)
