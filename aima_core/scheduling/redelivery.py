"""Caring for what nobody carries out, which any worker and any API node does alike: none is needed in particular."""

from __future__ import annotations

from contextlib import suppress

import structlog

from aima_core.errors import UnknownOperation
from aima_core.queue.notifier import Doorbell
from aima_core.scheduling.pending import WhyItWaits
from aima_core.store.operations import OperationStore

_log = structlog.get_logger()


def ring_again(operations: OperationStore, doorbell: Doorbell, why_it_waits: WhyItWaits) -> int:
    """Ring for what was not heard, and say of what is not begun why; gives how many operations wait for room.

    Raises BrokerUnavailable.
    """
    overdue = operations.overdue()
    for id, queue in overdue.unattended:
        with suppress(UnknownOperation):  # it has expired since
            doorbell.ring(operations.get(id), on=queue)
            _log.info("rung for again", operation=id, queue=queue)
    for id in overdue.unheard:
        with suppress(UnknownOperation):
            why_it_waits.look(operations.get(id))
    return overdue.waiting
