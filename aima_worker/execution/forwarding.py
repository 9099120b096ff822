"""What this host is not to take on: handed to a host that is, else left waiting with the reason that people read."""

from __future__ import annotations

import random

from aima_core.domain.ids import Route
from aima_core.scheduling.explanation import reasons_of
from aima_core.store.claims import HasItsHost, Lack, NoRoom
from aima_worker.context import Host

_LACKS = {Lack.SLOTS: "has all its start slots busy", Lack.LOAD: "is loading another model", Lack.DRAINED: "is drained"}


def leave_to_others(host: Host, refused: NoRoom) -> None:
    """Raises BrokerUnavailable."""
    operation = refused.record
    against = host.why_it_waits.against(operation)
    if would_do := [name for name, reasons in against.items() if not reasons and name != host.name]:
        host.doorbell.ring(operation, on=str(Route.to_host(random.choice(would_do))))
        return
    why = reasons_of(against) or f"{host.name} {_lack(host, refused)}"
    host.why_it_waits.tell_of_no_room(operation, why)


def _lack(host: Host, refused: NoRoom) -> str:
    if host.engine_away.is_set():
        return "has no Docker Engine that answers"
    return _LACKS.get(refused.lack, "has no room")


def leave_to_its_host(host: Host, refused: HasItsHost) -> None:
    """It rings there while that is live; whoever sweeps rings for it again. Raises BrokerUnavailable."""
    name, operation = refused.host, refused.record
    if any(other.name == name and other.live for other in host.hosts.all()):
        host.doorbell.ring(operation, on=str(Route.to_host(name)))
        return
    service = operation.service
    host.why_it_waits.tell(operation, f"{service} is on {name}, which is away: it goes on there, or once it has moved.")
