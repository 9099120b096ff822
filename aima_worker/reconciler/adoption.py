"""Taking on a container that is here for what its labels say: its records, and what it holds, are put back."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog

from aima_core.domain.ids import Route
from aima_core.domain.operations import Kind, Operation, Phase, State
from aima_core.domain.resources import Holding, needs_of, pool_of
from aima_core.domain.services import Desired, Instance, InstanceState, Service
from aima_core.errors import OperationLost
from aima_core.store.operations import now
from aima_worker.context import Host
from aima_worker.operations.teardown import observe
from aima_worker.reconciler.health import answers_well, endpoint, patience_with
from aima_worker.reconciler.inventory import Known, known_by_labels
from aima_worker.runtime import Container, Status

_log = structlog.get_logger()


def adopt(host: Host, seen: Known, *, instead_of: Instance | None) -> None:
    """Put back its records, in the place of one that is out of date; unless all has changed since it was seen.

    Raises DockerUnavailable, BrokerUnavailable.
    """
    with host.exclusively(seen.service):
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


def hold(host: Host, known: Known, instance: Instance | None) -> None:
    """Put down the port, memory and GPUs that a container has: the container is the ground truth."""
    fence, loading = _fence(known, instance), instance is not None and instance.state is InstanceState.STARTING
    if not host.ports.keep(known.id, known.port, fence=fence):
        _log.warning("somebody else holds the port of a container", instance=known.id, port=known.port)
    needs = needs_of(known.command.engine, known.command.model)
    memory = pool_of(needs, unified=host.room().unified)
    holding = Holding(memory=memory, gpus=known.granted.gpus, loading=loading, fence=fence)
    host.room_store.keep(host.name, known.service, holding)


def become_ready(host: Host, instance: Instance, known: Known) -> None:
    """It answers, though nobody was waiting for it."""
    ready = _instance(host, known, InstanceState.READY, fence=instance.fence)
    if observe(host, ready, operation=instance.operation):
        _log.info("what was half made is ready", instance=instance.id)
        hold(host, known, ready)
        host.freed.set()


def _as_it_is_now(host: Host, seen: Known) -> Known | None:
    """Asked anew, where nobody else can act; None once it is gone, or something is under way."""
    container = host.runtime.find(seen.container.name)
    if container is None or host.keeper.is_busy_with(seen.service):
        return None
    return known_by_labels(host, container)


def _state(host: Host, known: Known) -> InstanceState:
    if not known.runs:
        return InstanceState.RESTARTING
    if answers_well(host, known):
        return InstanceState.READY
    running_for = now() - _began(known.container)
    return InstanceState.STARTING if running_for < patience_with(known) else InstanceState.UNHEALTHY


def _began(container: Container) -> datetime:
    return container.started_at or datetime.now(UTC)


def _fence(known: Known, instance: Instance | None) -> int:
    """A container that a later start found to be as it wanted it keeps the labels of the earlier one."""
    return max(known.fence, instance.fence if instance else 0)


def _instance(host: Host, known: Known, state: InstanceState, *, fence: int) -> Instance:
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


def _service(known: Known) -> Service:
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


def _put_down_its_start(host: Host, known: Known) -> None:
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
    host.operations.put_down_lost(start)
