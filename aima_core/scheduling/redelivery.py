"""Redelivers the message of every operation that no worker has claimed.

Any worker or API node may run it; the script returns each operation to exactly one caller.
"""

from __future__ import annotations

from contextlib import suppress

import structlog

from aima_core.errors import UnknownOperation
from aima_core.queue.notifier import Notifier
from aima_core.scheduling.pending import PendingReasons
from aima_core.store.operations import OperationStore

_log = structlog.get_logger()


def redeliver(operations: OperationStore, notifier: Notifier, pending_reasons: PendingReasons) -> int:
    """Redelivers stalled operations, and records why others are pending; returns how many wait for capacity.

    Raises BrokerUnavailable.
    """
    stalled = operations.find_stalled()
    for id, queue in stalled.undelivered:
        with suppress(UnknownOperation):  # its record has expired since
            notifier.notify(operations.get(id), on=queue)
            _log.info("operation redelivered", operation=id, queue=queue)
    for id in stalled.without_reason:
        with suppress(UnknownOperation):
            pending_reasons.explain(operations.get(id))
    return stalled.waiting
