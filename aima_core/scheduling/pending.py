"""Why an operation waits, told by whoever finds it waiting: what speaks against each host that it could go to."""

from __future__ import annotations

from aima_core.domain.ids import HostName
from aima_core.domain.operations import Event, Operation, Phase
from aima_core.domain.resources import Needs
from aima_core.scheduling.explanation import reasons_of
from aima_core.scheduling.feasibility import Wanted, WhyNot, why_not
from aima_core.store.allocations import RoomStore
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore, now


class WhyItWaits:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, operations: OperationStore, *, hosts: HostStore, rooms: RoomStore) -> None:
        self._operations = operations
        self._hosts = hosts
        self._rooms = rooms

    def against(self, operation: Operation) -> dict[HostName, list[WhyNot]]:
        """What speaks against each host that listens to one of its routes; nothing against one that would do now."""
        routes = {operation.route, *operation.routes}
        listening = [host for host in self._hosts.all() if routes & set(host.routes)]
        names = [host.name for host in listening]
        held, busy = self._rooms.held_on(names), self._rooms.busy_on(names)
        wanted = Wanted(routes=(), needs=operation.needs or Needs(), service=operation.service)
        return {host.name: why_not(host, wanted, held[host.name], busy=busy[host.name]) for host in listening}

    def tell(self, operation: Operation, reason: str) -> None:
        """Unless it was told so before."""
        if reason != operation.reason:
            self._operations.record(Event(operation=operation.id, at=now(), phase=Phase.QUEUED, message=reason))

    def tell_of_no_room(self, operation: Operation, why: str) -> None:
        self.tell(operation, f"No host has room now: {why}. It starts when one has.")

    def look(self, operation: Operation) -> None:
        """Tell it where no host would do now; else somebody is about to take it on."""
        against = self.against(operation)
        if against and all(against.values()):
            self.tell_of_no_room(operation, reasons_of(against))
