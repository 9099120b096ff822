"""Going on where this host's last worker left off: what it had under way is begun anew at once."""

from __future__ import annotations

import structlog

from aima_core.domain.ids import Route
from aima_core.domain.operations import Kind
from aima_worker.context import HostContext

_log = structlog.get_logger()


def take_over_from_predecessor(host: HostContext) -> None:
    """To be called once, by the only worker of this host, before it takes anything. Raises BrokerUnavailable."""
    for operation in host.operations.release_all_of_host(host.name):
        _log.info("goes on", operation=operation.id, kind=operation.kind)
        host.notifier.notify(operation, on=None if operation.kind is Kind.STOP else str(Route.to_host(host.name)))
