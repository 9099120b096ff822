"""Caring for what nobody carries out, which any worker and any API node does alike: none is needed in particular."""

from __future__ import annotations

from contextlib import suppress

import structlog

from aima_core.errors import UnknownOperation
from aima_core.queue.notifier import Notifier
from aima_core.scheduling.pending import PendingReasons
from aima_core.store.operations import OperationStore

_log = structlog.get_logger()


def redeliver(operations: OperationStore, notifier: Notifier, pending_reasons: PendingReasons) -> int:
    """Ring for what was not heard, and say of what is not begun why; gives how many operations wait for room.

    Raises BrokerUnavailable.
    """
    overdue = operations.find_stalled()
    for id, queue in overdue.unattended:
        with suppress(UnknownOperation):  # it has expired since
            notifier.notify(operations.get(id), on=queue)
            _log.info("rung for again", operation=id, queue=queue)
    for id in overdue.unroutable:
        with suppress(UnknownOperation):
            pending_reasons.explain(operations.get(id))
    return overdue.waiting
