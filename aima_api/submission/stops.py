"""Stops: stops a service on its hosts, and drains hosts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from aima_api.http.schemas import DEFAULT_GRACE
from aima_api.planning.planner import StartPlanner
from aima_api.submission.cancellation import Cancellations
from aima_api.submission.submitter import Submitter
from aima_core.domain.ids import HostName, ServiceId
from aima_core.domain.operations import Kind, Operation, StopService
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore
from aima_core.store.services import ServiceStore


class Stops:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(
        self,
        planner: StartPlanner,
        submitter: Submitter,
        *,
        operations: OperationStore,
        services: ServiceStore,
        hosts: HostStore,
        cancellations: Cancellations,
    ) -> None:
        self._planner = planner
        self._submitter = submitter
        self._operations = operations
        self._services = services
        self._hosts = hosts
        self._cancellations = cancellations

    def stop(self, id: ServiceId, *, hosts: Sequence[HostName] = (), grace: timedelta) -> list[Operation]:
        """Stops the service on these hosts, or wherever it is up or starting; cancels starts that no worker claimed.

        Raises UnknownService, UnknownHost.
        """
        instances = self._services.instances_of(id)
        if not instances:
            self._services.get(id)
        starts = [each for each in self._active_starts() if each.service == id]
        up = [instance.id.host for instance in instances if not instance.is_down]
        starting = [each.host for each in starts if each.host]
        targets = self._planner.placement().for_stop(hosts or [*up, *starting])
        stops = self._submitter.submit(StopService(service=id, grace=grace), targets)
        for start in starts:
            if start.host is None and (not hosts or start.route.host in hosts):
                self._cancellations.cancel(start.id)
        return stops

    def drain(self, host: HostName, *, stop: bool) -> list[Operation]:
        """Excludes the host from starts; with `stop`, stops what runs or starts there. Raises UnknownHost."""
        self._hosts.drain(host)
        if not stop:
            return []
        up = {each.id.service for each in self._services.instances_on(host) if not each.is_down}
        starting = {each.service for each in self._active_starts() if each.host == host and each.service}
        return [each for id in sorted(up | starting) for each in self.stop(id, hosts=[host], grace=DEFAULT_GRACE)]

    def _active_starts(self) -> list[Operation]:
        return [each for each in self._operations.list_active() if each.kind is Kind.START]
