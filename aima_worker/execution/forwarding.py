"""What this host is not to take on: handed to a host that is, else left waiting with the reason that people read."""

from __future__ import annotations

import random

from aima_core.domain.ids import Route
from aima_core.domain.resources import ObstacleKind
from aima_core.scheduling.pending import explain
from aima_core.store.claims import AlreadyPlaced, InsufficientCapacity
from aima_worker.context import HostContext

_LACKS = {
    ObstacleKind.SLOTS: "has all its start slots busy",
    ObstacleKind.LOADING: "is loading another model",
    ObstacleKind.DRAINED: "is drained",
}


def forward_or_park(host: HostContext, refused: InsufficientCapacity) -> None:
    """Raises BrokerUnavailable."""
    operation = refused.operation
    against = host.pending_reasons.obstacles(operation)
    if would_do := [name for name, reasons in against.items() if not reasons and name != host.name]:
        host.notifier.notify(operation, on=str(Route.to_host(random.choice(would_do))))
        return
    why = explain(against) or f"{host.name} {_lack(host, refused)}"
    host.pending_reasons.record_no_capacity(operation, why)


def _lack(host: HostContext, refused: InsufficientCapacity) -> str:
    if host.engine_unavailable.is_set():
        return "has no Docker Engine that answers"
    return _LACKS.get(refused.lack, "has no room")


def forward_to_owner(host: HostContext, refused: AlreadyPlaced) -> None:
    """It rings there while that is live; whoever sweeps rings for it again. Raises BrokerUnavailable."""
    name, operation = refused.host, refused.operation
    if any(other.name == name and other.live for other in host.hosts.all()):
        host.notifier.notify(operation, on=str(Route.to_host(name)))
        return
    service = operation.service
    host.pending_reasons.record_reason(
        operation, f"{service} is on {name}, which is away: it goes on there, or once it has moved."
    )
