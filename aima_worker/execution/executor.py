"""Executes an operation: claims it, verifies its order, runs its steps, and records its outcome.

A duplicate delivery finds the operation claimed or ended and does nothing. If Redis becomes unavailable, the message
is requeued and the next attempt continues from what exists.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
from pydantic import ValidationError

from aima_core.domain.hosts import Host
from aima_core.domain.ids import HostName, OperationId, Route
from aima_core.domain.operations import Command, Event, Kind, Operation, Phase
from aima_core.domain.resources import Held, ObstacleKind, ResourceRequest
from aima_core.domain.services import Desired
from aima_core.errors import (
    AimaError,
    BrokerUnavailable,
    Cancelled,
    ChangeNotMade,
    CorruptData,
    FenceNotRecorded,
    InvalidRequest,
    OrderRefused,
    Superseded,
    UnknownHost,
)
from aima_core.scheduling.feasibility import PlacementRequirements, find_obstacles, locality
from aima_core.scheduling.pending import by_name, explain
from aima_core.store.claims import AlreadyPlaced, Claimed, ClaimResult, InsufficientCapacity, NotClaimable, Unreadable
from aima_core.store.operations import now
from aima_core.trust.orders import Order
from aima_worker.attempt import Attempt, ClaimLost, WorkerShutdown
from aima_worker.context import HostContext
from aima_worker.models.steps import pull_model
from aima_worker.operations.pull import pull
from aima_worker.operations.removal import pin_model, prune_models, remove_image, remove_model
from aima_worker.operations.start import start
from aima_worker.operations.stop import stop

STEPS: dict[Kind, Callable[[HostContext, Attempt, Any], None]] = {
    Kind.START: start,
    Kind.PULL: pull,
    Kind.STOP: stop,
    Kind.REMOVE: remove_image,
    Kind.PULL_MODEL: pull_model,
    Kind.REMOVE_MODEL: remove_model,
    Kind.PIN_MODEL: pin_model,
    Kind.UNPIN_MODEL: pin_model,
    Kind.PRUNE_MODELS: prune_models,
}
_LACKS = {
    ObstacleKind.SLOTS: "all start slots busy",
    ObstacleKind.LOADING: "loading another model",
    ObstacleKind.GPU_MEMORY: "no GPU with enough memory free",
    ObstacleKind.DRAINED: "drained",
    ObstacleKind.DISK: "not enough disk free for the model",
}

_log = structlog.get_logger()


def execute(host: HostContext, id: OperationId) -> None:
    """Executes an operation to its end; does nothing if it has ended or another worker has claimed it.

    Raises WorkerShutdown if this worker shuts down first, so that the message returns to the queue.
    """
    match claimed := _claim(host, id):
        case InsufficientCapacity():
            _forward_or_park(host, claimed)
        case AlreadyPlaced():
            _forward_to_owner(host, claimed)
        case NotClaimable():
            _log.info("operation skipped", operation=id, reason=claimed.reason)
            if claimed.cancel_pending or claimed.change_not_made:
                by = host.operations.superseded_by(id)
                cancelled = Superseded(by=f"operation {by}") if by else Cancelled()
                end = ChangeNotMade() if claimed.change_not_made else cancelled
                host.operations.append_event(Event(operation=id, at=now(), phase=Phase.CANCELLED, failure=end.failure))
        case Unreadable():
            _end_unreadable(host, id, claimed)
        case Claimed():
            with host.claims.renewing(claimed) as attempt, _recorded_outcome(host, attempt):
                STEPS[claimed.operation.kind](host, attempt, _verified_command(host, claimed))


def _claim(host: HostContext, id: OperationId) -> ClaimResult:
    """Claims it again, without the check of the disk, if the host has the model, or enough of it."""
    room = host.capacity_now()
    claimed = host.claim_store.claim(id, host.name, room)
    if not isinstance(claimed, InsufficientCapacity) or claimed.lack is not ObstacleKind.DISK:
        return claimed
    if _lacks_disk(host, claimed.operation):
        host.models.changed()  # its announced facts may be older
        return claimed
    return host.claim_store.claim(id, host.name, room.model_copy(update={"model_disk": None}))


def _lacks_disk(host: HostContext, operation: Operation) -> bool:
    """By what is in the store now, and may be collected. A host that Redis has lost is about to join again."""
    try:
        announced = host.hosts.get(host.name)
    except (UnknownHost, CorruptData):
        return True
    disk = host.fetches.disk
    if disk is not None:
        disk = disk.model_copy(update={"free": disk.free + host.collector.collectable()})
    now = announced.model_copy(update={"stored": host.models.listing(), "model_disk": disk})
    wanted = PlacementRequirements((), operation.needs or ResourceRequest(), service=operation.service)
    return any(each.kind is ObstacleKind.DISK for each in find_obstacles(now, wanted, Held()))


def _end_unreadable(host: HostContext, id: OperationId, claimed: Unreadable) -> None:
    _log.error("operation unreadable", operation=id, reason=claimed.why)
    host.operations.end_unreadable(id, claimed.why)
    if claimed.attempt is not None:
        host.claim_store.release(id, host.name, claimed.attempt)


def _forward_or_park(host: HostContext, refused: InsufficientCapacity) -> None:
    """Forwards the operation to an eligible host, or else records the pending reason."""
    operation = refused.operation
    obstacles = host.pending_reasons.obstacles(operation)
    if eligible := [other for other, reasons in obstacles if not reasons and other.name != host.name]:
        host.notifier.notify(operation, on=str(Route.to_host(_nearest(eligible, operation))))
        return
    no_engine = host.engine_unavailable.is_set()
    lack = "no Docker Engine answers" if no_engine else _LACKS.get(refused.lack, "no free capacity")
    host.pending_reasons.record_no_capacity(operation, explain(by_name(obstacles)) or f"{host.name}: {lack}")


def _nearest(eligible: Sequence[Host], operation: Operation) -> HostName:
    """By what placement prefers; of equal hosts any, so that forwarded starts are spread over them."""
    scores = {other.name: locality(other, operation.needs or ResourceRequest()) for other in eligible}
    return random.choice([name for name, score in scores.items() if score == min(scores.values())])


def _forward_to_owner(host: HostContext, refused: AlreadyPlaced) -> None:
    """Notifies the host that has the instance, if that is live; redelivery does so later."""
    name, operation = refused.host, refused.operation
    if any(other.name == name and other.live for other in host.hosts.all()):
        host.notifier.notify(operation, on=str(Route.to_host(name)))
        return
    host.pending_reasons.record_reason(
        operation, f"{operation.service} is on {name}, which does not respond; it starts there, or after failover."
    )


@contextmanager
def _recorded_outcome(host: HostContext, attempt: Attempt) -> Iterator[None]:
    operation = attempt.operation
    log = _log.bind(
        operation=operation.id, kind=operation.kind, target=operation.service or operation.image or operation.model
    )
    log.info("operation started", attempt=attempt.claimed.attempt)
    try:
        yield
        log.info("operation finished", phase=attempt.phase)
    except WorkerShutdown:
        attempt.requeue(f"The worker on {host.name} shut down; the next worker continues.")
        raise
    except ClaimLost:
        log.info("attempt superseded")
    except BrokerUnavailable as unavailable:
        log.warning("attempt interrupted", reason=str(unavailable))
        raise
    except (Cancelled, Superseded) as cancelled:
        ended = _superseded(host, attempt) or cancelled
        attempt.finish(Phase.CANCELLED, failure=ended.failure)
        log.info("operation cancelled", reason=str(ended))
    except AimaError as failed:
        attempt.finish(Phase.FAILED, failure=failed.failure)
        log.warning("operation failed", code=failed.code, reason=str(failed))
    except Exception as bug:
        attempt.finish(Phase.FAILED, failure=AimaError(detail=f"{type(bug).__name__}: {bug}").failure)
        log.exception("operation failed by a bug")


def _superseded(host: HostContext, attempt: Attempt) -> Superseded | None:
    """By which later start it was cancelled; None if a person or a stop cancelled it."""
    operation = attempt.operation
    by = host.operations.superseded_by(operation.id)
    if by is None and operation.kind is Kind.START and operation.service:
        latest = host.services.instance(operation.service.on(host.name))
        if latest and latest.fence > operation.fence and latest.desired is Desired.RUNNING:
            by = host.services.requested_by(latest.id)
    return Superseded(by=f"operation {by} on {operation.service}") if by else None


def _verified_command(host: HostContext, claimed: Claimed) -> Command:
    """The command, if its order is valid here and now. The record equals the order then, so that steps may read it."""
    operation = claimed.operation
    try:
        order = Order.read(claimed.order, host.keys)
        order.check(operation, claimed.command_text)
        if not {*order.routes} & {*host.routes}:
            raise OrderRefused(detail=f"it is for {' or '.join(order.routes)}, and {host.name} is none of these.")
        order.check_time(now())
        command = claimed.command
        order.check_command(command)
        _advance_fence(host, order)
        return command
    except (AimaError, ValidationError) as wrong:
        if operation.service:  # its allocation was granted with the claim, and no step runs that would release it
            host.release_allocation(operation.service, fence=operation.fence)
        if isinstance(wrong, AimaError):
            raise
        remedy = "Give the API nodes and the hosts the same version of AIMA."
        raise InvalidRequest(detail=f"This host does not understand the command: {wrong}", remedy=remedy) from wrong


def _advance_fence(host: HostContext, order: Order) -> None:
    """Raises Superseded, and FenceNotRecorded for a start: after a crash, an older start could be replayed."""
    if order.service is None:
        return
    try:
        host.fences.advance(order.service, order.fence, order.operation, written=order.kind is Kind.START)
    except OSError as failed:
        raise FenceNotRecorded(host=host.name, service=order.service, detail=f"{failed}.") from failed
