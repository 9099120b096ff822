"""What no live host listens for is given up after a while: it would wait for ever, and nobody would be told."""

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
        """Note to what is listened now; give up what nobody has listened for, as far as that could be seen."""
        heard = {route for host in hosts if host.live for route in host.routes}
        unroutable = self._operations.find_unroutable(heard, after=self._after)
        for operation in unroutable if watched_for >= self._after else ():
            self._give_up(operation)

    def _give_up(self, operation: Operation) -> None:
        routes = [f"host.{operation.host}"] if operation.host else operation.routes or [operation.route]
        failure = NoLiveHost(
            routes=" or ".join(routes), waited=format_duration(self._after), remedy=_remedy(operation)
        ).failure
        _log.warning("given up", operation=operation.id, why=failure.message)
        self._cancellations.cancel_now(operation.id, Phase.FAILED, failure)


def _remedy(operation: Operation) -> str:
    if operation.kind is Kind.STOP:
        return "When the host is back it stops what runs there all the same; `aima host forget` if it never will be."
    return "Bring such a host up and ask again; `api.wait_for_hosts` says how long one is waited for."
