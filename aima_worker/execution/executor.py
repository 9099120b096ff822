"""Carrying an operation out: claim it, check who signed it, take its steps, and tell how it ended, whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Event, Kind, Phase
from aima_core.errors import AimaError, BrokerUnavailable, Cancelled
from aima_core.store.claims import Claimed, HasItsHost, NoRoom, Skipped
from aima_core.store.operations import now
from aima_worker.context import Host
from aima_worker.execution.attempt import Undertaking
from aima_worker.execution.cancellation import HandedOn, Lost
from aima_worker.execution.forwarding import leave_to_its_host, leave_to_others
from aima_worker.execution.trust import trusted_command
from aima_worker.operations.pull import pull
from aima_worker.operations.start import start
from aima_worker.operations.stop import stop

STEPS: dict[Kind, Callable[[Host, Undertaking, Any], None]] = {Kind.START: start, Kind.PULL: pull, Kind.STOP: stop}

_log = structlog.get_logger()


def conduct(host: Host, id: OperationId) -> None:
    """Carry an operation out to its end, or do nothing if it has ended or somebody else does.

    Raises HandedOn when this worker ends first, so that the message goes back to the queue.
    """
    claimed = host.operations.claim(id, host.name, host.room_now())
    match claimed:
        case NoRoom():
            leave_to_others(host, claimed)
        case HasItsHost():
            leave_to_its_host(host, claimed)
        case Skipped():
            _skip(host, id, claimed)
        case Claimed():
            with host.keeper.keeping(claimed) as undertaking, _ending_well(host, undertaking):
                STEPS[claimed.record.kind](host, undertaking, trusted_command(host, claimed))


def _skip(host: Host, id: OperationId, skipped: Skipped) -> None:
    _log.info("skipped", operation=id, why=skipped.why)
    if skipped.to_be_ended:
        event = Event(operation=id, at=now(), phase=Phase.CANCELLED, failure=Cancelled().failure)
        host.operations.record(event)


@contextmanager
def _ending_well(host: Host, undertaking: Undertaking) -> Iterator[None]:
    operation = undertaking.operation
    log = _log.bind(operation=operation.id, kind=operation.kind, what=operation.service or operation.image)
    log.info("begun", attempt=undertaking.claimed.attempt)
    try:
        yield
        log.info("done", phase=undertaking.phase)
    except HandedOn:
        undertaking.hand_on(f"The worker on {host.name} ended; the next one goes on.")
        raise
    except Lost:
        log.info("lost", why="another attempt has begun")
    except BrokerUnavailable as away:
        log.warning("cut off", why=str(away))
        raise
    except Cancelled as cancelled:
        undertaking.end(Phase.CANCELLED, failure=cancelled.failure)
        log.info("cancelled")
    except AimaError as failed:
        undertaking.end(Phase.FAILED, failure=failed.failure)
        log.warning("failed", code=failed.code, why=str(failed))
    except Exception as bug:
        undertaking.end(Phase.FAILED, failure=AimaError(detail=f"{type(bug).__name__}: {bug}").failure)
        log.exception("failed by a bug")
