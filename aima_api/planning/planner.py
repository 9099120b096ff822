"""The planner: merges a spec, and turns it into a start command and its targets; for starts, previews and failover.

It writes nothing: the request is checked against the catalog and a snapshot of the hosts before anything is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from aima_api.catalog.live import LiveCatalog
from aima_api.catalog.selection import Catalog, with_arguments, with_environment, with_pull
from aima_api.http.schemas import ServiceOptions
from aima_api.planning.placement import Placement, Target, routes_of
from aima_core.domain.catalog import Engine, Model
from aima_core.domain.ids import HostName, Route, ServiceId, SignedText
from aima_core.domain.operations import StartService
from aima_core.domain.resources import resources_of
from aima_core.domain.services import Service
from aima_core.errors import InvalidRequest
from aima_core.scheduling.feasibility import PlacementRequirements
from aima_core.store.allocations import AllocationStore
from aima_core.store.hosts import HostStore
from aima_core.store.operations import now


def merged_service(stored: Service | None, id: ServiceId, options: ServiceOptions) -> Service:
    """The one merge rule: given options replace the stored ones, all others stay; without a stored service, a new one.

    Named hosts exclude a route and replicas, and vice versa. A change makes a new revision.
    """
    if stored is None:
        return Service(**{**options.given(), "id": id, "created_at": now()})
    fields = options.given()
    if "hosts" in fields:
        fields = {"replicas": 1, **fields, "route": None}
    elif "replicas" in fields or "route" in fields:
        fields["hosts"] = ()
    merged = stored.model_copy(update=fields)
    return merged if merged == stored else merged.model_copy(update={"revision": stored.revision + 1})


class PlannedStart(NamedTuple):
    """A service with its start command, and the requirements on a host."""

    service: Service
    command: StartService
    requirements: PlacementRequirements

    @property
    def bound_hosts(self) -> tuple[HostName, ...]:
        """The hosts that the service names; empty if its hosts are chosen by placement."""
        route = self.service.route
        return self.service.hosts or ((route.host,) if route and route.host else ())

    def targets(
        self, placement: Placement, *, current: Sequence[HostName], hosts: Sequence[HostName] = ()
    ) -> list[Target]:
        """Where its instances go: `hosts` if named, else the service's own, else chosen with `current` preferred.

        Raises UnknownHost, RequirementsNotMet, PortOutOfRange, InvalidRequest.
        """
        if named := hosts or self.bound_hosts:
            return placement.on_hosts(named, self.requirements)
        if self.service.replicas > 1:
            return placement.replicas(self.service.replicas, self.requirements, current=current)
        return [placement.one_instance(self.requirements, current=current)]


@dataclass(frozen=True)
class StartPlanner:
    """Every call may raise BrokerUnavailable within seconds."""

    catalogs: LiveCatalog
    hosts: HostStore
    allocations: AllocationStore

    @property
    def catalog(self) -> Catalog:
        return self.catalogs.current

    def placement(self) -> Placement:
        """A snapshot of the hosts now."""
        return Placement(self.hosts, self.allocations)

    def plan(self, service: Service, *, record: SignedText | None = None, replace: bool = False) -> PlannedStart:
        """The command carries the service's signed `record` for its worker.

        Raises UnknownEngine, UnknownModel, EngineDoesNotServe, UnknownArgument, InvalidRequest.
        """
        engine = with_arguments(self.catalog.engine_for(service.id, service.engine), dict(service.arguments))
        command = StartService(
            service=service.id,
            engine=with_environment(with_pull(engine, service.pull), service.environment, secrets=service.secrets),
            model=self._model(service, engine),
            model_path=service.model_path,
            port=service.port,
            secrets=service.secrets,
            replace=replace,
            spec=record,
        )
        return PlannedStart(service, command, _requirements(service, command))

    def check(self, service: Service) -> None:
        """Raises what a start of the service would raise now, transient obstacles excepted."""
        self.placement().on_hosts(service.hosts, self.plan(service).requirements)

    def _model(self, service: Service, engine: Engine) -> Model | None:
        """The catalog's entry; None if a path replaces it, or the engine is bound to no model of the catalog."""
        if service.model:
            return self.catalog.model(service.model)
        bound = any(engine.name in model.engines for model in self.catalog.models)
        named = next((model for model in self.catalog.models if model.id == service.id.model), None)
        if named or service.model_path or (engine.model_mount is None and not bound):
            return named
        return self.catalog.model(service.id.model)  # raises UnknownModel with the nearest names


def _requirements(service: Service, command: StartService) -> PlacementRequirements:
    engine = command.engine
    return PlacementRequirements(
        routes=_accepted_routes(service, engine),
        resources=resources_of(engine, command.model),
        service=command.service,
        images=engine.images,
        image_size=engine.image_size,
        never_pulled=engine.pull == "never",
        native=engine.native is not None,
        port=command.port,
        secrets=tuple(sorted(set(service.secrets.values()))),
        subject=engine.name,
    )


def _accepted_routes(service: Service, engine: Engine) -> tuple[Route, ...]:
    """Raises InvalidRequest if the service is bound to a class of hosts that cannot run the engine."""
    routes, bound = routes_of(engine), service.route
    if bound is None or bound.host:
        return routes
    if bound not in routes:
        raise InvalidRequest(
            detail=f"{engine.name} does not run on hosts of {bound}.",
            remedy=f"Name one of {', '.join(routes)} as the route, or omit it to have one chosen.",
        )
    return (bound,)
