"""Why an operation waits, told by whoever finds it waiting: what speaks against each host that it could go to."""

from __future__ import annotations

from aima_core.domain.ids import HostName
from aima_core.domain.operations import Event, Operation, Phase
from aima_core.domain.resources import ResourceRequest
from aima_core.scheduling.explanation import explain
from aima_core.scheduling.feasibility import Obstacle, PlacementRequirements, find_obstacles
from aima_core.store.allocations import AllocationStore
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore, now


class PendingReasons:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, operations: OperationStore, *, hosts: HostStore, allocations: AllocationStore) -> None:
        self._operations = operations
        self._hosts = hosts
        self._allocations = allocations

    def obstacles(self, operation: Operation) -> dict[HostName, list[Obstacle]]:
        """What speaks against each host that listens to one of its routes; nothing against one that would do now."""
        routes = {operation.route, *operation.routes}
        listening = [host for host in self._hosts.all() if routes & set(host.routes)]
        names = [host.name for host in listening]
        held, busy = self._allocations.held_on(names), self._allocations.busy_on(names)
        wanted = PlacementRequirements(
            routes=(), resources=operation.needs or ResourceRequest(), service=operation.service
        )
        return {host.name: find_obstacles(host, wanted, held[host.name], busy=busy[host.name]) for host in listening}

    def record_reason(self, operation: Operation, reason: str) -> None:
        """Unless it was told so before."""
        if reason != operation.reason:
            self._operations.append_event(Event(operation=operation.id, at=now(), phase=Phase.QUEUED, message=reason))

    def record_no_capacity(self, operation: Operation, why: str) -> None:
        self.record_reason(operation, f"No host has room now: {why}. It starts when one has.")

    def explain(self, operation: Operation) -> None:
        """Tell it where no host would do now; else somebody is about to take it on."""
        against = self.obstacles(operation)
        if against and all(against.values()):
            self.record_no_capacity(operation, explain(against))
