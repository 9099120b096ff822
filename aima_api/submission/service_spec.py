"""What a service is: the record of what was asked for, and the command that it comes to with the catalog."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from aima_api.catalog.loader import Catalog, with_arguments
from aima_api.http.schemas import ServiceOptions
from aima_core.domain.catalog import Engine, Model
from aima_core.domain.ids import HostName, ServiceId
from aima_core.domain.operations import StartService
from aima_core.domain.services import Service
from aima_core.store.operations import now


def new_service(id: ServiceId, options: ServiceOptions) -> Service:
    return Service(id=id, created_at=now(), **_fields(options))


def changed(service: Service, options: ServiceOptions) -> Service:
    """The service with the options given; hosts named do away with a route and replicas, and the other way round."""
    fields = _fields(options)
    if "hosts" in fields:
        fields = {"replicas": 1, **fields, "route": None}
    elif "replicas" in fields or "route" in fields:
        fields["hosts"] = ()
    return service.model_copy(update=fields)


def as_asked(service: Service | None, id: ServiceId, options: ServiceOptions) -> Service:
    """As it was written down, changed by the options; a new one if it was not."""
    return changed(service, options) if service else new_service(id, options)


def start_command(catalog: Catalog, service: Service, *, replace: bool = False) -> StartService:
    """Raises UnknownEngine, UnknownModel, EngineDoesNotServe, UnknownArgument."""
    engine = catalog.engine_for(service.id, service.engine)
    return StartService(
        service=service.id,
        engine=with_arguments(engine, dict(service.arguments)),
        model=_model(catalog, service, engine),
        model_path=service.model_path,
        port=service.port,
        replace=replace,
        asked=service,
    )


def _model(catalog: Catalog, service: Service, engine: Engine) -> Model | None:
    """The catalog's; None where a path is given instead, or the engine is not bound to the catalog's models."""
    if service.model:
        return catalog.model(service.model)
    named = next((model for model in catalog.models if model.id == service.id.model), None)
    if named or service.model_path or (engine.model_mount is None and not _is_bound(catalog, engine)):
        return named
    return catalog.model(service.id.model)  # which tells what is near


def _is_bound(catalog: Catalog, engine: Engine) -> bool:
    return any(engine.name in model.engines for model in catalog.models)


def _fields(options: ServiceOptions) -> dict[str, object]:
    return {name: value for name, value in options.given().items() if name != "id"}


class StartRequest(NamedTuple):
    id: ServiceId
    options: ServiceOptions
    hosts: Sequence[HostName] = ()
    """For this time, rather than those it was written down for."""
    replace: bool = False
    """Take down what runs first."""

    def wants_several(self, known: Service | None) -> bool:
        """Replicas, where `known` is what was written down; on hosts to be chosen, unless they are named."""
        return (self.options.replicas or (known.replicas if known else 1)) > 1
