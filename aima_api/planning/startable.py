"""Models as they can be started: services that start each, hosts with its files, and hosts that could run it.

Feasibility is that of placement, from one snapshot of the hosts for all models.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Self

from pydantic import BaseModel, model_validator

from aima_api.planning.planner import StartPlanner
from aima_core.domain.catalog import Engine, Model
from aima_core.domain.hosts import Host
from aima_core.domain.ids import EngineName, HostName, ServiceId
from aima_core.domain.services import Service
from aima_core.errors import AimaError
from aima_core.scheduling.feasibility import has_what_is_never_pulled, image_there
from aima_core.store.operations import now


class StartableService(BaseModel):
    engine: EngineName
    """The engine that the id selects."""
    hosts: tuple[HostName, ...]
    """Live hosts that could run it now."""


class StartableModel(Model):
    services: dict[ServiceId, StartableService]
    """By the id that starts the model; the best engine first."""
    files: tuple[HostName, ...]
    """Hosts with its weights in their store or below a model root, or with the image that contains them. In place of
    the patterns of the catalog's entry."""

    @model_validator(mode="after")
    def files_go_with_a_source(self) -> Self:
        """Of a file's patterns only; replaces the rule of the catalog's entry."""
        return self


def startable(planner: StartPlanner, models: Iterable[Model]) -> list[StartableModel]:
    placement, at = planner.placement(), now()
    hosts = [_Known(host, _with_parents(host.models)) for host in placement.hosts]

    def able(service: ServiceId, engine: Engine, model: Model) -> tuple[HostName, ...]:
        try:
            wanted = planner.plan(Service(id=service, created_at=at)).requirements
        except AimaError:  # such as a model without a path, on an engine that mounts one
            return ()
        routes = set(wanted.routes)
        chosen = [each.host for each in hosts if each.may_run(engine, model) and routes.intersection(each.host.routes)]
        free = (host for host in chosen if has_what_is_never_pulled(host, wanted))
        return tuple(name for name, obstacles in placement.obstacles(wanted, free).items() if not obstacles)

    found = []
    for model in models:
        services = planner.catalog.services_of(model)
        ways = {id: StartableService(engine=it.name, hosts=able(id, it, model)) for id, it in services.items()}
        files = tuple(each.host.name for each in hosts if any(each.has(it, model) for it in services.values()))
        found.append(StartableModel.model_construct(**{**dict(model), "services": ways, "files": files}))
    return found


class _Known(NamedTuple):
    host: Host
    models: frozenset[str] | None
    """Paths below its model roots with files at or below them; None while they are not known."""

    def has(self, engine: Engine, model: Model) -> bool:
        """The weights that the engine reads."""
        if engine.model_mount is None:
            return image_there(self.host, engine.images) is not None
        fetched = any(each.verified and each.model == model.id for each in self.host.stored or ())
        return fetched or (self.models is not None and model.path in self.models)

    def may_run(self, engine: Engine, model: Model) -> bool:
        """Live, and images and weights can be pulled; where the paths are not known, only a start finds out."""
        if model.source is not None and self.host.stored is not None:
            return self.host.live
        has_weights = engine.model_mount is None or (model.path is not None and self.models is None)
        return self.host.live and (has_weights or self.has(engine, model))


def _with_parents(paths: Iterable[str] | None) -> frozenset[str] | None:
    if paths is None:
        return None
    return frozenset(
        "/".join(parts[:length]) for path in paths for parts in [path.split("/")] for length in range(1, len(parts) + 1)
    )
