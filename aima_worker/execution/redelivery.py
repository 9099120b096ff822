"""Redelivery: notifies again of operations that no worker has claimed, and of pending ones that fit this host now.

Messages get lost and workers die; the record stays the truth. A pending start is on no queue: each host looks for the
ones it has capacity for, as soon as capacity is freed. The takeover continues what this host's last worker had claimed.
"""

import time
from contextlib import suppress
from datetime import timedelta

import structlog

from aima_core.domain.hosts import Host
from aima_core.domain.ids import OperationId, Route
from aima_core.domain.operations import Kind, Operation
from aima_core.domain.resources import Held, ResourceRequest
from aima_core.errors import CorruptData, UnknownHost, UnknownOperation
from aima_core.scheduling.feasibility import PlacementRequirements, find_obstacles
from aima_core.scheduling.pending import redeliver
from aima_core.system.background import BackgroundLoop
from aima_worker.context import HostContext

REDELIVERY_INTERVAL = timedelta(seconds=7)
NOTIFY_AGAIN_DELAY = timedelta(seconds=5)
"""How long this host waits for its own message to be consumed."""
SETTLE_DELAY = timedelta(milliseconds=50)
"""So that an operation that frees capacity in several steps causes one pass."""

_log = structlog.get_logger()


class RedeliveryLoop:
    def __init__(self, host: HostContext) -> None:
        self._host = host
        self._notified: dict[OperationId, float] = {}
        self._loop = BackgroundLoop(
            "redelivery",
            self.run_once,
            interval=REDELIVERY_INTERVAL,
            settle_delay=SETTLE_DELAY,
            woken=host.capacity_freed,
        )

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop()

    def run_once(self) -> None:
        """Raises BrokerUnavailable."""
        if redeliver(self._host.operations, self._host.notifier, self._host.pending_reasons):
            with suppress(UnknownHost, CorruptData):  # its next heartbeats join, and announce it again
                self._notify_of_what_fits()

    def _notify_of_what_fits(self) -> None:
        now = time.monotonic()
        delay = NOTIFY_AGAIN_DELAY.total_seconds()
        self._notified = {id: at for id, at in self._notified.items() if now - at < delay}
        me, held = self._host.hosts.get(self._host.name), self._host.allocations.held(self._host.name)
        slots = self._host.settings.host.slots
        for operation in self._host.operations.list_pending():
            if slots and operation.id not in self._notified and self._fits(operation, me, held):
                self._host.notifier.notify(operation, on=str(Route.to_host(self._host.name)))
                self._notified[operation.id] = now
                slots -= 1

    def _fits(self, operation: Operation, me: Host, held: Held) -> bool:
        if operation.host is not None or not {operation.route, *operation.routes} & set(self._host.routes):
            return False
        needs = operation.needs or ResourceRequest()
        return not find_obstacles(
            me, PlacementRequirements(routes=(), resources=needs, service=operation.service), held
        )


def take_over_from_predecessor(host: HostContext) -> None:
    """Called once, by the only worker of this host, before it consumes anything. Raises BrokerUnavailable."""
    for id in host.claim_store.release_all_of_host(host.name):
        try:
            operation = host.operations.get(id)
        except (UnknownOperation, CorruptData) as unreadable:
            _log.warning("operation not taken over", operation=id, reason=str(unreadable))
            continue
        _log.info("operation taken over", operation=operation.id, kind=operation.kind)
        host.notifier.notify(operation, on=None if operation.kind is Kind.STOP else str(Route.to_host(host.name)))
