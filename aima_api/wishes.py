"""What people wish for, checked as a whole before anything is written, as commands and the places to send them to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from aima_api.call_off import CallOff
from aima_api.catalog_files import Catalog
from aima_api.placement import Place, Placement
from aima_api.requests import PullOptions
from aima_api.specification import start_command
from aima_api.submit import Submit
from aima_core.failures import Cancelled
from aima_core.host_store import HostStore
from aima_core.ids import HostName, OperationId, ServiceId
from aima_core.operation_store import OperationStore
from aima_core.operations import Kind, Operation, Phase, PullImage, StartService, StopService
from aima_core.service_store import ServiceStore
from aima_core.services import Desired, Instance, InstanceState, Service


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

    def check(self, service: Service) -> None:
        """Raises what a start of it would raise now, but for what hosts lack at the moment."""
        start_command(self._catalog, service)
        Placement(self._hosts).named(service.hosts, port=service.port)

    def start(self, service: Service, *, hosts: Sequence[HostName] = (), replace: bool = False) -> list[Operation]:
        """Remember the service and bring it up, one operation per instance; on these hosts rather than its own."""
        command = start_command(self._catalog, service, replace=replace)
        places = self._places(service, command, hosts or service.hosts)
        self._services.put(service)
        return self._submit.submit(command, places)

    def stop(self, id: ServiceId, *, hosts: Sequence[HostName] = (), grace: timedelta) -> list[Operation]:
        """Take the service down wherever it is, or on these hosts, and call off starts that nobody has taken on.

        Raises UnknownService, UnknownHost.
        """
        instances = self._services.instances_of(id)
        if not instances:
            self._services.get(id)
        starts = [each for each in self._operations.unended() if (each.kind, each.service) == (Kind.START, id)]
        up = [instance.id.host for instance in instances if not _is_down(instance)]
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

    def _places(self, service: Service, command: StartService, hosts: Sequence[HostName]) -> list[Place]:
        placement = Placement(self._hosts)
        if hosts:
            return placement.named(hosts, port=service.port)
        known = [instance.id.host for instance in sorted(self._services.instances_of(service.id), key=_is_down)]
        if service.replicas > 1:
            return placement.replicas(service.replicas, command.engine, known=known, port=service.port)
        return [placement.one(command.engine, known=known, port=service.port)]


def _is_down(instance: Instance) -> bool:
    return instance.desired is Desired.STOPPED and instance.state is InstanceState.STOPPED
