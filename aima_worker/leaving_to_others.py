"""What this host has no room for: handed to a host that has, else left waiting with the reason that people read."""

from __future__ import annotations

import random

from aima_core.fitting import Wanted, WhyNot, told, why_not
from aima_core.ids import Route
from aima_core.needs import Needs
from aima_core.operation_store import Lack, NoRoom, now
from aima_core.operations import Event, Operation, Phase
from aima_core.services import Host as Other
from aima_worker.host import Host

MOST_NAMED = 5
"""Hosts told by name in one reason."""


def leave_to_others(host: Host, refused: NoRoom) -> None:
    """Raises BrokerUnavailable."""
    operation = refused.record
    reasons = _reasons(host, operation)
    if would_do := [other for other, against in reasons.items() if not against and other.name != host.name]:
        host.doorbell.ring(operation, on=str(Route.to_host(random.choice(would_do).name)))
        return
    reason = _sentence(host, refused.lack, reasons)
    if reason != operation.reason:
        host.operations.record(Event(operation=operation.id, at=now(), phase=Phase.QUEUED, message=reason))


def _reasons(host: Host, operation: Operation) -> dict[Other, list[WhyNot]]:
    """What speaks against each host that listens to one of its routes."""
    routes = {operation.route, *operation.routes}
    listening = [other for other in host.hosts.all() if routes & set(other.routes)]
    held = host.room_store.held_on(other.name for other in listening)
    wanted = Wanted(routes=(), needs=operation.needs or Needs(), service=operation.service)
    return {other: why_not(other, wanted, held[other.name]) for other in listening}


def _sentence(host: Host, lack: Lack, reasons: dict[Other, list[WhyNot]]) -> str:
    told_of = [told(other, against) for other, against in reasons.items() if against]
    if not told_of:
        busy = "has all its start slots busy" if lack is Lack.SLOTS else f"has no room now ({lack})"
        told_of = [f"{host.name} {busy}"]
    more = f"; and {len(told_of) - MOST_NAMED} more" if len(told_of) > MOST_NAMED else ""
    return f"Waits for room: {'; '.join(told_of[:MOST_NAMED])}{more}. It starts when a host has room."
