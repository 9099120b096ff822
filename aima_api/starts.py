"""What a start comes to: a command from the record and the catalog, and the places to send it to."""

from __future__ import annotations

from collections.abc import Sequence

from aima_api.catalog_files import Catalog
from aima_api.placement import Place, Placement
from aima_api.specification import start_command
from aima_api.submit import Submit
from aima_core.host_store import HostStore
from aima_core.ids import HostName
from aima_core.operations import Operation, StartService
from aima_core.service_store import ServiceStore
from aima_core.services import Service


class Starts:
    """Everything is checked before anything is written. Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, catalog: Catalog, submit: Submit, *, services: ServiceStore, hosts: HostStore) -> None:
        self._catalog = catalog
        self._submit = submit
        self._services = services
        self._hosts = hosts

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

    def _places(self, service: Service, command: StartService, hosts: Sequence[HostName]) -> list[Place]:
        placement = Placement(self._hosts)
        if hosts:
            return placement.named(hosts, port=service.port)
        instances = sorted(self._services.instances_of(service.id), key=lambda instance: instance.is_down)
        known = [instance.id.host for instance in instances]
        if service.replicas > 1:
            return placement.replicas(service.replicas, command.engine, known=known, port=service.port)
        return [placement.one(command.engine, known=known, port=service.port)]
