"""The planner: turns a spec into a start command and its targets; for starts, previews and failover.

It writes nothing: the request is checked against the catalog and a snapshot of the hosts before anything is stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

from pydantic import ValidationError

from aima_api.catalog.live import LiveCatalog
from aima_api.catalog.selection import Catalog, with_arguments, with_environment, with_pull
from aima_api.models.manifests import ManifestStore
from aima_api.planning.placement import Placement, Target, routes_of
from aima_core.domain.catalog import Engine, Model
from aima_core.domain.ids import HostName, Route, SignedText
from aima_core.domain.models import Manifest
from aima_core.domain.operations import StartService
from aima_core.domain.services import InstanceState, Service
from aima_core.errors import EngineDoesNotServe, InvalidRequest
from aima_core.scheduling.feasibility import PlacementRequirements, has_model_at
from aima_core.store.allocations import AllocationStore
from aima_core.store.hosts import HostStore
from aima_core.store.whereabouts import Whereabouts


class PlannedStart(NamedTuple):
    """A service with its start command, and the requirements on a host."""

    service: Service
    command: StartService
    runs: str
    """The digest of the command: equal where an instance runs as asked."""
    requirements: PlacementRequirements

    @property
    def bound_hosts(self) -> tuple[HostName, ...]:
        """The hosts that the service names; empty if its hosts are chosen by placement."""
        route = self.service.route
        return self.service.hosts or ((route.host,) if route and route.host else ())

    def with_command(self, **changes: Any) -> PlannedStart:
        """With other ways to carry it out, which change nothing of what runs."""
        return self._replace(command=self.command.model_copy(update=changes))

    def unresolved(self, targets: Iterable[Target], placement: Placement) -> Model | None:
        """The model whose source must be resolved first; None if a host that may run it has, or may have, its files."""
        model, engine = self.command.model, self.command.engine
        if self.command.manifest or self.command.model_path or engine.model_mount is None:
            return None
        routes = {route for target in targets for route in target.routes or (target.route,)}
        if model is None or model.source is None or not routes:
            return None
        able = [host for host in placement.hosts if host.live and routes.intersection(host.routes)]
        unknown = model.path is not None and (not able or any(host.models is None for host in able))
        return None if unknown or any(has_model_at(host, model.path) for host in able) else model

    @property
    def is_alone(self) -> bool:
        """It has one instance, on a host that placement chooses."""
        return not self.bound_hosts and self.service.replicas == 1

    @property
    def asks_for(self) -> str:
        """Equal for starts that ask for the same."""
        spec = [self.service.content, self.service.owner]
        wanted = json.dumps([*spec, self.runs, self.command.replace], sort_keys=True)
        return sha256(wanted.encode()).hexdigest()[:16]

    def runs_as_asked(self, target: Target, where: Whereabouts, placement: Placement) -> bool:
        """Whether the target's host has a ready instance of this very command, and no start is to change it."""
        instance = where.wanted.get(target.host) if target.host else None
        if instance is None or self.command.replace or not placement.answers(target):
            return False
        if where.candidate is None and where.is_ahead(instance):
            return False  # it is ready, of a change that failed elsewhere and is about to be undone
        changing = where.candidate is not None and where.candidate.spec.content != self.service.content
        return not changing and instance.state is InstanceState.READY and instance.runs == self.runs

    def is_starting(self, target: Target, where: Whereabouts) -> bool:
        """Whether a start that has not ended does the same there: a start would join it."""
        return any(
            start.command.replace == self.command.replace
            and (self.is_alone or target.host in (start.operation.host, start.operation.route.host))
            and start.command.digest == self.runs
            for start in where.starts[-1:]
        )

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
    manifests: ManifestStore

    @property
    def catalog(self) -> Catalog:
        return self.catalogs.current

    def placement(self) -> Placement:
        """A snapshot of the hosts now."""
        return Placement(self.hosts, self.allocations)

    def plan(self, service: Service, *, record: SignedText | None = None) -> PlannedStart:
        """The command carries the service's signed `record` for its worker.

        Raises UnknownEngine, UnknownModel, EngineDoesNotServe, UnknownArgument, InvalidRequest.
        """
        engine = self.catalog.engine_for(service.id, service.engine, model=service.model)
        model = self._model(service, engine)
        _check_serves(engine, service, model)
        adjusted = _adjusted(with_pull(with_arguments(engine, dict(service.arguments)), service.pull), service)
        command = StartService(
            service=service.id,
            engine=with_environment(adjusted, service.environment, secrets=service.secrets),
            model=model,
            model_path=service.model_path,
            manifest=self._manifest(service, engine, model),
            port=service.port,
            expose=service.expose,
            secrets=service.secrets,
            priority=service.priority,
            spec=record,
        )
        return PlannedStart(service, command, command.digest, _requirements(service, command))

    def check(self, service: Service) -> None:
        """Raises what a start of the service would raise now, transient obstacles excepted."""
        planned, placement = self.plan(service), self.placement()
        if planned.bound_hosts:
            placement.on_hosts(planned.bound_hosts, planned.requirements)
        else:
            placement.require_able_host(planned.requirements)

    def _manifest(self, service: Service, engine: Engine, model: Model | None) -> Manifest | None:
        """What hosts may fetch; None where the service has a path of its own, and while the source is not resolved."""
        if model is None or service.model_path or engine.model_mount is None:
            return None
        return self.manifests.of(model)

    def _model(self, service: Service, engine: Engine) -> Model | None:
        """The catalog's entry; None if a path replaces it, or the engine is bound to no model of the catalog."""
        if service.model:
            return self.catalog.model(service.model)
        bound = any(engine.name in model.engines for model in self.catalog.models)
        named = next((model for model in self.catalog.models if model.id == service.id.model), None)
        if named or service.model_path or (engine.model_mount is None and not bound):
            return named
        return self.catalog.model(service.id.model, service=service.id)  # raises UnknownModel with the nearest ids


def _check_serves(engine: Engine, service: Service, model: Model | None) -> None:
    """Raises EngineDoesNotServe if the engine cannot read the weights that the service names."""
    if engine.model_mount is not None or (engine.native and any("{model}" in part for part in engine.native.command)):
        return
    if service.model_path:
        raise EngineDoesNotServe(
            engine=engine.name,
            what=f"the model path {service.model_path}: it reads no weights from the host",
            remedy=f"Remove the path: `aima service unset {service.id} model-path`; or choose another `--engine`.",
        )
    if model is not None and engine.name not in model.engines:
        raise EngineDoesNotServe(
            engine=engine.name,
            what=f"{model.name}: its image holds the weights of another model",
            remedy=f"These serve it: {', '.join(model.engines)}. Name the service after one, such as "
            f"`svc-TYPE-{model.id}`.",
        )


def _adjusted(engine: Engine, service: Service) -> Engine:
    """The engine with the resources, limits and patience of the service in place of its own. Raises InvalidRequest."""
    parts = {"requires": service.resources, "limits": service.limits, "health_check": service.health}
    adjusted: dict[str, Any] = {}
    for name, options in parts.items():
        given = {field: value for field, value in options if value is not None}
        if given:
            own = getattr(engine, name)
            try:
                adjusted[name] = type(own).model_validate({**dict(own), **given})
            except ValidationError as wrong:
                raise InvalidRequest(
                    detail=f"{engine.name} cannot run with {', '.join(sorted(given))} as given: it "
                    f"{wrong.errors()[0]['msg'].removeprefix('Value error, ')}.",
                    remedy=f"Correct the value, or remove it with `aima service unset {service.id}`.",
                ) from wrong
    return engine.model_copy(update=adjusted) if adjusted else engine


def _requirements(service: Service, command: StartService) -> PlacementRequirements:
    engine = command.engine
    return PlacementRequirements(
        routes=_accepted_routes(service, engine),
        resources=command.needs,
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
