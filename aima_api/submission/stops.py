"""Stops, pulls and cancellations: what they come to, as commands and the places to send them to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from aima_api.catalog.loader import Catalog
from aima_api.http.schemas import DEFAULT_GRACE, PullOptions
from aima_api.planning.placement import Placement, Target, image_sought
from aima_api.submission.cancellation import Cancellations
from aima_api.submission.submitter import Submitter
from aima_core.domain.catalog import Engine
from aima_core.domain.ids import HostName, OperationId, ServiceId
from aima_core.domain.operations import Kind, Operation, Phase, PullImage, StopService
from aima_core.errors import Cancelled
from aima_core.store.allocations import AllocationStore
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore
from aima_core.store.services import ServiceStore


class StopsAndPulls:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(
        self,
        catalog: Catalog,
        submit: Submitter,
        *,
        operations: OperationStore,
        services: ServiceStore,
        hosts: HostStore,
        allocations: AllocationStore,
        cancellations: Cancellations,
    ) -> None:
        self._catalog = catalog
        self._submit = submit
        self._operations = operations
        self._services = services
        self._hosts = hosts
        self._allocations = allocations
        self._cancellations = cancellations

    def stop(self, id: ServiceId, *, hosts: Sequence[HostName] = (), grace: timedelta) -> list[Operation]:
        """Take the service down wherever it is, or on these hosts, and call off starts that nobody has taken on.

        Raises UnknownService, UnknownHost.
        """
        instances = self._services.instances_of(id)
        if not instances:
            self._services.get(id)
        starts = [each for each in self._operations.list_active() if (each.kind, each.service) == (Kind.START, id)]
        up = [instance.id.host for instance in instances if not instance.is_down]
        starting = [each.host for each in starts if each.host]
        places = self._placement().by_name(hosts or [*up, *starting])
        stops = self._submit.submit(StopService(service=id, grace=grace), places)
        for start in starts:
            if start.host is None and (not hosts or start.route.host in hosts):
                self.cancel(start.id)
        return stops

    def drain(self, host: HostName, *, stop: bool) -> list[Operation]:
        """Let the host take no more starts; the stops of what runs or comes up there, if that is to end.

        Raises UnknownHost.
        """
        self._hosts.drain(host)
        if not stop:
            return []
        up = [each.id.service for each in self._services.instances_on(host) if not each.is_down]
        coming = [
            each.service for each in self._operations.list_active() if each.kind is Kind.START and each.host == host
        ]
        services = sorted({*up, *(service for service in coming if service)})
        return [each for id in services for each in self.stop(id, hosts=[host], grace=DEFAULT_GRACE)]

    def pull(self, wish: PullOptions) -> list[Operation]:
        """Have the image wherever it is wished: one operation per host.

        Raises UnknownEngine, UnknownHost, InvalidRequest, RequirementsNotMet, TooManyOperations.
        """
        engine = self._catalog.engine(wish.engine) if wish.engine else None
        images = engine.images if engine else (str(wish.image),)
        places = self._places_of(wish, images, engine)
        self._submit.check_backlog(len(places))
        return self._submit.submit(PullImage(images=images, image_size=engine and engine.image_size), places)

    def _places_of(self, wish: PullOptions, images: Sequence[str], engine: Engine | None) -> list[Target]:
        placement, sought = self._placement(), image_sought(images, engine=engine)
        hosts = wish.hosts or ((wish.route.host,) if wish.route and wish.route.host else ())
        if hosts:
            return placement.named(hosts, sought)
        if wish.route:
            return placement.each_on([wish.route], sought)
        if engine:
            return placement.each_on(sought.wanted.routes, sought)
        return placement.named([placement.only_host()], sought)

    def _placement(self) -> Placement:
        return Placement(self._hosts, self._allocations)

    def cancel(self, id: OperationId) -> Operation:
        """Ask for its end: at once where nobody carries it out, else within a second. Ended ones stay as they are.

        Raises UnknownOperation.
        """
        self._cancellations.cancel_now(id, Phase.CANCELLED, Cancelled().failure)
        return self._operations.get(id)
