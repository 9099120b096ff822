"""What this host is not to take on: handed to a host that is, else left waiting with the reason that people read."""

from __future__ import annotations

import random

from aima_core.fitting import Wanted, WhyNot, why_not
from aima_core.ids import HostName, Route
from aima_core.needs import Needs
from aima_core.operation_store import HasItsHost, Lack, NoRoom, now
from aima_core.operations import Event, Operation, Phase
from aima_core.reasons import reasons_of
from aima_worker.host import Host

_LACKS = {Lack.SLOTS: "has all its start slots busy", Lack.LOAD: "is loading another model", Lack.DRAINED: "is drained"}


def leave_to_others(host: Host, refused: NoRoom) -> None:
    """Raises BrokerUnavailable."""
    operation = refused.record
    against = _against(host, operation)
    if would_do := [name for name, reasons in against.items() if not reasons and name != host.name]:
        host.doorbell.ring(operation, on=str(Route.to_host(random.choice(would_do))))
        return
    why = reasons_of(against) or f"{host.name} {_LACKS.get(refused.lack, 'has no room')}"
    _say(host, operation, f"No host has room now: {why}. It starts when one has.")


def leave_to_its_host(host: Host, refused: HasItsHost) -> None:
    """It rings there while that is live; whoever sweeps rings for it again. Raises BrokerUnavailable."""
    name, operation = refused.host, refused.record
    if any(other.name == name and other.live for other in host.hosts.all()):
        host.doorbell.ring(operation, on=str(Route.to_host(name)))
    else:
        _say(
            host, operation, f"{operation.service} is on {name}, which is away: it goes on there, or once it has moved."
        )


def _say(host: Host, operation: Operation, reason: str) -> None:
    if reason != operation.reason:
        host.operations.record(Event(operation=operation.id, at=now(), phase=Phase.QUEUED, message=reason))


def _against(host: Host, operation: Operation) -> dict[HostName, list[WhyNot]]:
    """What speaks against each host that listens to one of its routes."""
    routes = {operation.route, *operation.routes}
    listening = [other for other in host.hosts.all() if routes & set(other.routes)]
    held = host.room_store.held_on(other.name for other in listening)
    wanted = Wanted(routes=(), needs=operation.needs or Needs(), service=operation.service)
    return {other.name: why_not(other, wanted, held[other.name]) for other in listening}
