"""Stops: stops a service on its hosts, removes a stopped one, and drains hosts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from aima_api.http.schemas import DEFAULT_GRACE
from aima_api.planning.planner import StartPlanner
from aima_api.submission.cancellation import Cancellations
from aima_api.submission.submitter import Dispatch, Submitter
from aima_core.domain.ids import HostName, ServiceId
from aima_core.domain.operations import Kind, Operation, StopService
from aima_core.domain.services import GONE
from aima_core.errors import OperationInProgress, ServiceRunning, UnknownService
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore
from aima_core.store.services import ServiceStore
from aima_core.trust.orders import Mandate
from aima_core.trust.records import SignedService


@dataclass(frozen=True)
class Stops:
    """Every call may raise BrokerUnavailable within seconds."""

    planner: StartPlanner
    submitter: Submitter
    operations: OperationStore
    services: ServiceStore
    hosts: HostStore
    cancellations: Cancellations

    def stop(
        self,
        id: ServiceId,
        *,
        hosts: Sequence[HostName] = (),
        grace: timedelta,
        mandate: Mandate,
        put: SignedService | None = None,
    ) -> list[Operation]:
        """Stops the service on these hosts, or wherever it is up or starting; cancels starts that no worker claimed.

        `put` becomes its current spec in one step with the stops, so that a crash of this node stores both or neither.

        Raises UnknownService, UnknownHost.
        """
        instances = self.services.instances_of(id)
        if not (instances or put or self.services.exists(id)):
            raise UnknownService(service=id)
        starts = [each for each in self._active_starts() if each.service == id]
        up = [instance.id.host for instance in instances if not instance.is_down]
        starting = [each.host for each in starts if each.host]
        placement = self.planner.placement()
        targets = placement.for_stop(hosts or placement.known([*up, *starting]))
        if put and not targets:
            self.services.put(put)
        stops = self.submitter.submit_all([Dispatch(StopService(service=id, grace=grace), targets, mandate, put=put)])
        for start in starts:
            if start.host is None and (not hosts or start.route.host in hosts):
                self.cancellations.cancel_listed(start)
        return stops

    def remove(self, id: ServiceId) -> None:
        """Removes a service without running instances.

        Raises UnknownService, ServiceRunning, OperationInProgress.
        """
        if not self.services.exists(id):
            raise UnknownService(service=id)
        if up := [each.id.host for each in self.services.instances_of(id) if each.state not in GONE or each.kept]:
            raise ServiceRunning(service=id, hosts=", ".join(up))
        for operation in self.operations.list_active():
            if operation.service == id:
                raise OperationInProgress(what=id, operation=operation.id)
        self.services.remove(id)

    def drain(self, host: HostName, *, stop: bool, mandate: Mandate) -> list[Operation]:
        """Excludes the host from starts; with `stop`, stops what runs or starts there. Raises UnknownHost."""
        self.hosts.drain(host)
        if not stop:
            return []
        up = {each.id.service for each in self.services.instances_on(host) if not each.is_down}
        starting = {each.service for each in self._active_starts() if each.host == host and each.service}
        stopping = sorted(up | starting)
        return [each for id in stopping for each in self.stop(id, hosts=[host], grace=DEFAULT_GRACE, mandate=mandate)]

    def _active_starts(self) -> list[Operation]:
        return [each for each in self.operations.list_active() if each.kind is Kind.START]
