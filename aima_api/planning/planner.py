"""What a start comes to: a command from the record and the catalog, and the places to send it to.

Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Sequence

from aima_api.catalog.loader import Catalog
from aima_api.planning.placement import Placement, Sought, Target, sought_for
from aima_api.submission.service_spec import start_command
from aima_core.domain.ids import HostName
from aima_core.domain.operations import StartService
from aima_core.domain.services import Service
from aima_core.errors import InvalidRequest
from aima_core.store.allocations import AllocationStore
from aima_core.store.hosts import HostStore


class StartPlanner:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, catalog: Catalog, *, hosts: HostStore, allocations: AllocationStore) -> None:
        self._catalog = catalog
        self._hosts = hosts
        self._allocations = allocations

    def check(self, service: Service) -> None:
        """Raises what a start of it would raise now, but for what hosts lack at the moment."""
        sought = self.sought(service, self.command(service))
        self.placement().named(service.hosts, sought)

    def command(self, service: Service, *, replace: bool = False) -> StartService:
        """Raises what the catalog has against it."""
        return start_command(self._catalog, service, replace=replace)

    def sought(self, service: Service, command: StartService) -> Sought:
        """Raises InvalidRequest where the service is bound to a class of hosts that cannot run it."""
        sought = sought_for(command)
        if service.route is None or service.route.host:
            return sought
        if service.route not in (accepted := sought.wanted.routes):
            raise InvalidRequest(
                detail=f"{sought.what} does not run on hosts of {service.route}.",
                remedy=f"Name one of {', '.join(accepted)} as the route, or leave it away and one is chosen.",
            )
        return Sought(sought.what, sought.wanted._replace(routes=(service.route,)))

    def placement(self) -> Placement:
        """The hosts as they are now."""
        return Placement(self._hosts, self._allocations)

    def places(
        self,
        service: Service,
        sought: Sought,
        placement: Placement,
        *,
        known: Sequence[HostName],
        hosts: Sequence[HostName] = (),
    ) -> list[Target]:
        """Where its instances go, beside those that have it.

        Raises UnknownHost, RequirementsNotMet, PortOutOfRange, InvalidRequest.
        """
        bound = (service.route.host,) if service.route and service.route.host else ()
        if named := hosts or service.hosts or bound:
            return placement.named(named, sought)
        if service.replicas > 1:
            return placement.replicas(service.replicas, sought, known=known)
        return [placement.one(sought, known=known)]
