"""Adopts a container without a record: its labels rebuild the records, the port lease and the allocation.

The service's record is restored as it was signed, byte for byte: a host can restore a spec and forge none.
"""

import structlog

from aima_core.domain.ids import Route
from aima_core.domain.operations import Kind, Operation, Phase, State
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.errors import Failure, OperationLost
from aima_core.store.operations import now
from aima_worker.context import HostContext
from aima_worker.operations.managed import ManagedContainer, fence_of, recognize, restore_resources, revision_of
from aima_worker.operations.teardown import update_status
from aima_worker.runtime import Status

_log = structlog.get_logger()


def adopt(host: HostContext, seen: ManagedContainer, *, instead_of: Instance | None) -> None:
    """Writes the records of a container, or replaces a stale one; does nothing if either has changed since it was read.

    Raises DockerUnavailable, BrokerUnavailable.
    """
    with host.service_lock(seen.service):
        container = host.runtime.find(seen.container.name)
        managed = recognize(host, container) if container and not host.claims.is_running(seen.service) else None
        if managed is None or managed.container.status is Status.CREATED:
            return
        state, failure = _status(host, managed)
        instance = _instance(host, managed, state, fence=fence_of(managed, instead_of), failure=failure)
        seen_with = instead_of.fence if instead_of else None
        settled = host.fences.candidate(seen.service) is None
        if managed.command.spec is not None and settled:  # first: after a crash in between, the next pass adopts again
            host.services.restore({managed.service: managed.command.spec})
        restore_resources(host, managed, instance)  # before the record, so that no ready instance lacks its port lease
        if not host.services.adopt(instance, seen_with=seen_with):
            return
        _log.warning("container adopted", container=managed.container.name, instance=managed.id, state=instance.state)
    if instance.state is InstanceState.STARTING:
        _record_lost_start(host, managed)


def mark_ready(host: HostContext, instance: Instance, managed: ManagedContainer) -> None:
    """The engine became ready after its start had been abandoned."""
    ready = _instance(host, managed, InstanceState.READY, fence=instance.fence)
    if update_status(host, ready, operation=instance.operation):
        _log.info("abandoned start became ready", instance=instance.id)
        restore_resources(host, managed, ready)
        host.mark_loaded(instance.id.service)


def _status(host: HostContext, managed: ManagedContainer) -> tuple[InstanceState, Failure | None]:
    if not managed.running:
        return InstanceState.RESTARTING, None
    if (problem := managed.check_health(host)) is None:
        return InstanceState.READY, None
    running_for = now() - (managed.container.started_at or now())
    if running_for < managed.load_timeout:
        return InstanceState.STARTING, None
    return InstanceState.UNHEALTHY, problem.failure


def _instance(
    host: HostContext, managed: ManagedContainer, state: InstanceState, *, fence: int, failure: Failure | None = None
) -> Instance:
    image = host.runtime.image(managed.image) if managed.image else None
    own = managed.container.image_id
    if image is not None and own not in (None, image.id):
        image = host.runtime.image(own)  # the reference has moved since the container was created
    return Instance(
        id=managed.id,
        desired=Desired.RUNNING,
        fence=fence,
        state=state,
        engine=managed.command.engine.name,
        image=managed.image or None,
        digest=image and image.digest,
        image_id=own,
        port=managed.port,
        endpoint=host.endpoint(managed.command, managed.port),
        **host.reached_by(),
        operation=managed.order.operation,
        revision=revision_of(managed.command),
        runs=managed.command.digest,
        model=managed.command.model_id,
        serves=managed.command.serves,
        names=managed.command.names,
        failure=failure,
        since=now(),
    )


def _record_lost_start(host: HostContext, managed: ManagedContainer) -> None:
    """The start was running when Redis lost its record: had it ended, the engine would be ready."""
    began = managed.container.started_at or now()
    start = Operation(
        id=managed.order.operation,
        kind=Kind.START,
        state=State.FAILED,
        phase=Phase.FAILED,
        fence=managed.fence,
        route=Route.to_host(host.name),
        service=managed.service,
        engine=managed.command.engine.name,
        host=host.name,
        failure=OperationLost().failure,
        created_at=began,
        started_at=began,
    )
    host.operations.record_lost(start)
