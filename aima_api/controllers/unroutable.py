"""Unroutable operations: fails those whose queue no live host has subscribed to for a while; else they never end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import structlog

from aima_api.submission.cancellation import Cancellations
from aima_core.domain.hosts import Host
from aima_core.domain.operations import Kind, Operation, Phase
from aima_core.domain.units import format_duration
from aima_core.errors import NoLiveHost
from aima_core.store.operations import OperationStore

_log = structlog.get_logger()


class UnroutableOperations:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, operations: OperationStore, cancellations: Cancellations, *, after: timedelta) -> None:
        self._operations = operations
        self._cancellations = cancellations
        self._after = after

    def fail_expired(self, hosts: Sequence[Host], *, watched_for: timedelta) -> None:
        """Records the routes that are served now; fails what no host served, once this node has watched long enough."""
        served = {route for host in hosts if host.live for route in host.routes}
        unroutable = self._operations.find_unroutable(served, after=self._after)
        for operation in unroutable if watched_for >= self._after else ():
            self._fail(operation)

    def _fail(self, operation: Operation) -> None:
        routes = [f"host.{operation.host}"] if operation.host else operation.routes or [operation.route]
        failure = NoLiveHost(
            routes=" or ".join(routes), waited=format_duration(self._after), remedy=_remedy(operation)
        ).failure
        _log.warning("unroutable operation failed", operation=operation.id, reason=failure.message)
        self._cancellations.cancel_now(operation.id, Phase.FAILED, failure)


def _remedy(operation: Operation) -> str:
    if operation.kind is Kind.STOP:
        return "When the host is back it still stops what runs there; if it is gone for good, `aima host forget` it."
    return "Start a worker on such a host and submit again; `api.wait_for_hosts` sets how long an operation waits."
