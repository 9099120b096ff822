"""Forwards an operation that this host cannot claim to an eligible host, or else records the pending reason."""

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
    obstacles = host.pending_reasons.obstacles(operation)
    if eligible := [name for name, reasons in obstacles.items() if not reasons and name != host.name]:
        host.notifier.notify(operation, on=str(Route.to_host(random.choice(eligible))))
        return
    reason = explain(obstacles) or f"{host.name} {_lack(host, refused)}"
    host.pending_reasons.record_no_capacity(operation, reason)


def _lack(host: HostContext, refused: InsufficientCapacity) -> str:
    if host.engine_unavailable.is_set():
        return "has no Docker Engine that answers"
    return _LACKS.get(refused.lack, "has no room")


def forward_to_owner(host: HostContext, refused: AlreadyPlaced) -> None:
    """Notifies the host that has the instance, if that is live; redelivery does so later. Raises BrokerUnavailable."""
    name, operation = refused.host, refused.operation
    if any(other.name == name and other.live for other in host.hosts.all()):
        host.notifier.notify(operation, on=str(Route.to_host(name)))
        return
    host.pending_reasons.record_reason(
        operation, f"{operation.service} is on {name}, which does not respond; it starts there, or after failover."
    )
