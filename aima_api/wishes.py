"""Stops, pulls and cancellations: what they come to, as commands and the places to send them to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from aima_api.call_off import CallOff
from aima_api.catalog_files import Catalog
from aima_api.placement import Placement
from aima_api.requests import PullOptions
from aima_api.submit import Submit
from aima_core.failures import Cancelled
from aima_core.host_store import HostStore
from aima_core.ids import HostName, OperationId, ServiceId
from aima_core.operation_store import OperationStore
from aima_core.operations import Kind, Operation, Phase, PullImage, StopService
from aima_core.service_store import ServiceStore


class Wishes:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(
        self,
        catalog: Catalog,
        submit: Submit,
        *,
        operations: OperationStore,
        services: ServiceStore,
        hosts: HostStore,
        call_off: CallOff,
    ) -> None:
        self._catalog = catalog
        self._submit = submit
        self._operations = operations
        self._services = services
        self._hosts = hosts
        self._call_off = call_off

    def stop(self, id: ServiceId, *, hosts: Sequence[HostName] = (), grace: timedelta) -> list[Operation]:
        """Take the service down wherever it is, or on these hosts, and call off starts that nobody has taken on.

        Raises UnknownService, UnknownHost.
        """
        instances = self._services.instances_of(id)
        if not instances:
            self._services.get(id)
        starts = [each for each in self._operations.unended() if (each.kind, each.service) == (Kind.START, id)]
        up = [instance.id.host for instance in instances if not instance.is_down]
        starting = [each.host for each in starts if each.host]
        places = Placement(self._hosts).named(hosts or [*up, *starting])
        stops = self._submit.submit(StopService(service=id, grace=grace), places)
        for start in starts:
            if start.host is None and (not hosts or start.route.host in hosts):
                self.cancel(start.id)
        return stops

    def pull(self, wish: PullOptions) -> list[Operation]:
        """Raises UnknownEngine, UnknownHost, InvalidRequest."""
        placement = Placement(self._hosts)
        engine = self._catalog.engine(wish.engine) if wish.engine else None
        if wish.hosts:
            places = placement.named(wish.hosts)
        elif wish.route:
            places = [placement.at(wish.route)]
        else:
            places = [placement.one(engine) if engine else placement.only_host()]
        images = engine.images if engine else (str(wish.image),)
        return self._submit.submit(PullImage(images=images, image_size=engine and engine.image_size), places)

    def cancel(self, id: OperationId) -> Operation:
        """Ask for its end: at once where nobody carries it out, else within a second. Ended ones stay as they are.

        Raises UnknownOperation.
        """
        self._call_off.now(id, Phase.CANCELLED, Cancelled().failure)
        return self._operations.get(id)
