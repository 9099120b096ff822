"""Forgetting a host that is gone for good: what was its work goes elsewhere or ends, and no record of it is left."""

from __future__ import annotations

import structlog

from aima_api.controllers.failover import Failover
from aima_core.domain.ids import HostName
from aima_core.domain.operations import Event, Phase
from aima_core.errors import HostLives, HostLost
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore, now

_log = structlog.get_logger()


class HostRemoval:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, failover: Failover, *, hosts: HostStore, operations: OperationStore) -> None:
        self._failover = failover
        self._hosts = hosts
        self._operations = operations

    def forget(self, host: HostName) -> None:
        """As though it had never been: should it come back, it joins anew. Raises UnknownHost, HostLives."""
        if self._hosts.get(host).live:
            raise HostLives(host=host)
        self._failover.fail_over(host)
        self._hosts.forget(host)
        _log.warning("a host is forgotten", host=host)
        self._failover.fail_over(host)  # what it still held a claim on
        self._end_what_only_it_could_do(host)

    def _end_what_only_it_could_do(self, host: HostName) -> None:
        for operation in self._operations.list_active():
            if operation.route.host == host:
                failure = HostLost(host=host).failure
                self._operations.append_event(
                    Event(operation=operation.id, at=now(), phase=Phase.FAILED, failure=failure)
                )
