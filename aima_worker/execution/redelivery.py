"""Rings again for what nobody carries out, and for what waits until this host has room.

Doorbells get lost, and workers die: any worker may find it out, and none is needed in particular. A start that no host
had room for waits on no queue; each host looks for those it has room for whenever it has become free of something.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from threading import Event as Flag
from threading import Thread

import structlog

from aima_core.domain.hosts import Host
from aima_core.domain.ids import OperationId, Route, ServiceId
from aima_core.domain.operations import Kind, Operation
from aima_core.domain.resources import Allocation, ResourceRequest
from aima_core.errors import BrokerUnavailable, UnknownHost
from aima_core.scheduling.feasibility import PlacementRequirements, find_obstacles
from aima_core.scheduling.redelivery import redeliver
from aima_worker.context import HostContext
from aima_worker.context import HostContext as ThisHost

SWEEP_SECONDS = 7.0
RING_AGAIN_SECONDS = 5.0
"""A doorbell that this host rang itself for gets so long to be heard."""

_log = structlog.get_logger()


class RedeliveryLoop:
    def __init__(self, host: ThisHost) -> None:
        self._host = host
        self._rung: dict[OperationId, float] = {}
        self._ended = Flag()

    def start(self) -> None:
        Thread(target=self._keep_sweeping, name="sweep", daemon=True).start()

    def stop(self) -> None:
        self._ended.set()
        self._host.capacity_freed.set()

    def run_once(self) -> None:
        """Raises BrokerUnavailable."""
        if redeliver(self._host.operations, self._host.notifier, self._host.pending_reasons):
            self._ring_for_what_fits()

    def _ring_for_what_fits(self) -> None:
        now = time.monotonic()
        self._rung = {id: at for id, at in self._rung.items() if now - at < RING_AGAIN_SECONDS}
        me, held = self._host.hosts.get(self._host.name), self._host.allocations.held(self._host.name)
        slots = self._host.settings.host.slots
        for operation in self._host.operations.list_pending():
            if slots and operation.id not in self._rung and not self._speaks_against(operation, me, held):
                self._host.notifier.notify(operation, on=str(Route.to_host(self._host.name)))
                self._rung[operation.id] = now
                slots -= 1

    def _speaks_against(self, operation: Operation, me: Host, held: Mapping[ServiceId, Allocation]) -> bool:
        if operation.host is not None or not self._listens_to(operation):
            return True
        wanted = PlacementRequirements(
            routes=(), resources=operation.needs or ResourceRequest(), service=operation.service
        )
        return bool(find_obstacles(me, wanted, held))

    def _listens_to(self, operation: Operation) -> bool:
        return bool({operation.route, *operation.routes} & set(self._host.routes))

    def _keep_sweeping(self) -> None:
        while not self._ended.is_set():
            self._host.capacity_freed.clear()
            try:
                self.run_once()
            except (BrokerUnavailable, UnknownHost) as away:
                _log.warning("not swept", reason=str(away))
            except Exception:  # noqa: BLE001 the boundary of the thread: a sweep that fails must not be the last
                _log.exception("a sweep failed")
            self._host.capacity_freed.wait(SWEEP_SECONDS)


def take_over_from_predecessor(host: HostContext) -> None:
    """To be called once, by the only worker of this host, before it takes anything. Raises BrokerUnavailable."""
    for id in host.claim_store.release_all_of_host(host.name):
        operation = host.operations.get(id)
        _log.info("goes on", operation=operation.id, kind=operation.kind)
        host.notifier.notify(operation, on=None if operation.kind is Kind.STOP else str(Route.to_host(host.name)))
