"""Carrying an operation out: claim it, check who signed it, take its steps, and tell how it ended, whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from pydantic import ValidationError

from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Event, Kind, Phase
from aima_core.errors import AimaError, BadSignature, BrokerUnavailable, Cancelled, InvalidRequest
from aima_core.store.claims import AlreadyPlaced, Claimed, InsufficientCapacity, NotClaimable
from aima_core.store.operations import now
from aima_core.trust.signatures import verified
from aima_worker.context import HostContext
from aima_worker.execution.attempt import Attempt
from aima_worker.execution.cancellation import ClaimLost, WorkerShutdown
from aima_worker.execution.forwarding import forward_or_park, forward_to_owner
from aima_worker.operations.pull import pull
from aima_worker.operations.start import start
from aima_worker.operations.stop import stop

STEPS: dict[Kind, Callable[[HostContext, Attempt, Any], None]] = {Kind.START: start, Kind.PULL: pull, Kind.STOP: stop}

_log = structlog.get_logger()


def execute(host: HostContext, id: OperationId) -> None:
    """Carry an operation out to its end, or do nothing if it has ended or somebody else does.

    Raises WorkerShutdown when this worker ends first, so that the message goes back to the queue.
    """
    claimed = host.claim_store.claim(id, host.name, host.capacity_now())
    match claimed:
        case InsufficientCapacity():
            forward_or_park(host, claimed)
        case AlreadyPlaced():
            forward_to_owner(host, claimed)
        case NotClaimable():
            _skip(host, id, claimed)
        case Claimed():
            with host.claims.renewing(claimed) as attempt, _record_outcome(host, attempt):
                STEPS[claimed.operation.kind](host, attempt, verified_command(host, claimed))


def _skip(host: HostContext, id: OperationId, skipped: NotClaimable) -> None:
    _log.info("skipped", operation=id, why=skipped.reason)
    if skipped.cancel_pending:
        event = Event(operation=id, at=now(), phase=Phase.CANCELLED, failure=Cancelled().failure)
        host.operations.append_event(event)


@contextmanager
def _record_outcome(host: HostContext, attempt: Attempt) -> Iterator[None]:
    operation = attempt.operation
    log = _log.bind(operation=operation.id, kind=operation.kind, what=operation.service or operation.image)
    log.info("begun", attempt=attempt.claimed.attempt)
    try:
        yield
        log.info("done", phase=attempt.phase)
    except WorkerShutdown:
        attempt.requeue(f"The worker on {host.name} ended; the next one goes on.")
        raise
    except ClaimLost:
        log.info("lost", why="another attempt has begun")
    except BrokerUnavailable as away:
        log.warning("cut off", why=str(away))
        raise
    except Cancelled as cancelled:
        attempt.finish(Phase.CANCELLED, failure=cancelled.failure)
        log.info("cancelled")
    except AimaError as failed:
        attempt.finish(Phase.FAILED, failure=failed.failure)
        log.warning("failed", code=failed.code, why=str(failed))
    except Exception as bug:
        attempt.finish(Phase.FAILED, failure=AimaError(detail=f"{type(bug).__name__}: {bug}").failure)
        log.exception("failed by a bug")


def verified_command(host: HostContext, claimed: Claimed) -> Any:
    id = claimed.operation.id
    if not verified(claimed.command_text, host.signing_key, id, claimed.signature):
        _never_begun(host, claimed)
        raise BadSignature(host=host.name)
    try:
        return claimed.command
    except ValidationError as wrong:
        _never_begun(host, claimed)
        remedy = "Give the API nodes and the hosts the same version of AIMA."
        raise InvalidRequest(detail=f"This host does not understand the command: {wrong}", remedy=remedy) from wrong


def _never_begun(host: HostContext, claimed: Claimed) -> None:
    if claimed.operation.service:
        host.allocations.release(host.name, claimed.operation.service, fence=claimed.operation.fence)
