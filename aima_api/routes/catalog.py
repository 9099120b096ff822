"""Routes of the catalog: the engines and models that this node loaded; pulls, removals and pins of models on hosts."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, computed_field

from aima_api.catalog.live import CatalogStatus
from aima_api.dependencies import Access, Api, Cursor, Dependencies, IdempotencyKey, WholeLimit, page_of
from aima_api.http.schemas import PinModelOptions, PruneModelsOptions, PullModelOptions, RemoveModelOptions
from aima_api.planning.host_models import HostModel, models_of_hosts
from aima_api.planning.startable import StartableModel, startable
from aima_api.routes.service_actions import Submitted
from aima_api.submission.models import (
    submit_model_pin,
    submit_model_prune,
    submit_model_pull,
    submit_model_removal,
)
from aima_core.domain.catalog import Engine, digest_in
from aima_core.domain.ids import HostName, ModelId
from aima_core.domain.operations import Kind, Operation

router = APIRouter(prefix="/v1", tags=["catalog"])

Name = Annotated[str, Path(description="Its name in the catalog.")]


class EngineRecord(Engine):
    @computed_field  # type: ignore[prop-decorator]  # pydantic's own way of showing a property
    @property
    def digests(self) -> dict[str, str]:
        """The digest of each image, `unresolved` if it was not looked up in the image's registry."""
        return {image: digest_in(image) for image in self.images}


class Engines(BaseModel):
    items: list[EngineRecord]
    next: str | None


class Models(BaseModel):
    items: list[StartableModel]
    next: str | None


class StoredModels(BaseModel):
    items: list[HostModel]
    next: str | None


class CatalogRecord(BaseModel):
    engines: int
    models: int
    profiles: int
    overlay: str | None
    mistakes: str

    @classmethod
    def of(cls, status: CatalogStatus) -> CatalogRecord:
        return cls(**asdict(status))


@router.get("/catalog")
async def show_catalog(api: Api) -> CatalogRecord:
    """Show what this node loaded, and the mistakes that keep newer files from being in force."""
    return CatalogRecord.of(api.catalogs.status())


@router.post("/catalog:reload")
def reload_catalog(api: Api) -> CatalogRecord:
    """Read the overlay directory of this node again. With a mistake in it, the previous catalog stays in force."""
    return CatalogRecord.of(api.catalogs.reload())


@router.get("/engines")
async def list_engines(api: Api, limit: WholeLimit = None, cursor: Cursor = None) -> Engines:
    """List the engines of the catalog, by name."""
    items, after = page_of(api.catalog.engines, limit=limit, after=cursor)
    return Engines(items=list(map(_record, items)), next=after)


@router.get("/engines/{name}")
async def show_engine(api: Api, name: Name) -> EngineRecord:
    """Show an engine of the catalog, with the digests of its images as far as they were resolved."""
    return _record(api.catalog.engine(name[:200]))


@router.get("/models")
def list_models(api: Api, limit: WholeLimit = None, cursor: Cursor = None) -> Models:
    """List the models of the catalog by name, with the services that start them and the hosts that could run them."""
    items, after = page_of(api.catalog.models, limit=limit, after=cursor)
    return Models(items=startable(api.planner, items), next=after)


@router.get("/models/{name}")
def show_model(api: Api, name: Name) -> StartableModel:
    """Show a model of the catalog, with the services that start it and the hosts that could run it."""
    [found] = startable(api.planner, [api.catalog.model(name[:200])])
    return found


@router.get("/models:stored")
def list_stored_models(
    api: Api,
    host: Annotated[HostName | None, Query(description="Only those on this host.")] = None,
    limit: WholeLimit = None,
    cursor: Cursor = None,
) -> StoredModels:
    """List the models of all hosts, as they last announced them: how far each is fetched, and what uses it.

    Files that people put below a model root are listed, too, as not verified.
    """
    hosts = api.hosts.all() if host is None else [api.hosts.get(host)]
    left = [each for each in models_of_hosts(hosts, api.services, api.catalog) if _place(each) > (cursor or "")]
    left.sort(key=_place)
    page = left[:limit]
    return StoredModels(items=page, next=_place(page[-1]) if len(page) < len(left) else None)


@router.post("/models/{name}:pull", status_code=202)
def pull_model(
    api: Api,
    access: Access,
    name: Name,
    body: PullModelOptions | None = None,
    idempotency_key: IdempotencyKey = None,
) -> Submitted:
    """Resolve a model's source, and fetch its files to the hosts, or to every live host of the route."""
    options = body or PullModelOptions()
    submit = partial(_pull_model, api, name, options, caller=access.caller.name)
    return Submitted(operations=api.idempotency.once(idempotency_key, f"pull model {name}", options, submit))


@router.post("/models/{name}:remove", status_code=202)
def remove_model(
    api: Api,
    access: Access,
    name: Name,
    body: RemoveModelOptions | None = None,
    idempotency_key: IdempotencyKey = None,
) -> Submitted:
    """Remove a fetched model from the hosts, or from every live host that has it, unless it is used or pinned."""
    options, model = body or RemoveModelOptions(), ModelId(name.lower()[:200])
    submit = partial(_remove_model, api, model, options, caller=access.caller.name)
    return Submitted(operations=api.idempotency.once(idempotency_key, f"remove model {model}", options, submit))


@router.post("/models/{name}:pin", status_code=202)
def pin_model(
    api: Api,
    access: Access,
    name: Name,
    body: PinModelOptions | None = None,
    idempotency_key: IdempotencyKey = None,
) -> Submitted:
    """Pin a fetched model on the hosts, or on every live host that has it: it is neither collected nor removed."""
    options, model = body or PinModelOptions(), ModelId(name.lower()[:200])
    submit = partial(_pin_model, api, model, options, kind=Kind.PIN_MODEL, caller=access.caller.name)
    return Submitted(operations=api.idempotency.once(idempotency_key, f"pin model {model}", options, submit))


@router.post("/models/{name}:unpin", status_code=202)
def unpin_model(
    api: Api,
    access: Access,
    name: Name,
    body: PinModelOptions | None = None,
    idempotency_key: IdempotencyKey = None,
) -> Submitted:
    """Undo the pin of a model on the hosts, or on every live host that has it."""
    options, model = body or PinModelOptions(), ModelId(name.lower()[:200])
    submit = partial(_pin_model, api, model, options, kind=Kind.UNPIN_MODEL, caller=access.caller.name)
    return Submitted(operations=api.idempotency.once(idempotency_key, f"unpin model {model}", options, submit))


@router.post("/models:prune", status_code=202)
def prune_models(
    api: Api, access: Access, body: PruneModelsOptions | None = None, idempotency_key: IdempotencyKey = None
) -> Submitted:
    """Remove models that nothing uses, the least recently used first, as the watermarks of each host say.

    The operations' records then name each model with its outcome (`collection`). With `dry_run`, nothing is removed.
    """
    options = body or PruneModelsOptions()
    submit = partial(_prune_models, api, options, caller=access.caller.name)
    return Submitted(operations=api.idempotency.once(idempotency_key, "prune models", options, submit))


def _pull_model(api: Dependencies, name: str, options: PullModelOptions, *, caller: str) -> list[Operation]:
    model = api.catalog.model(name[:200])
    manifest = api.resolver.resolve(model)
    return submit_model_pull(api.planner, api.submitter, model, manifest, options, caller=caller)


def _remove_model(api: Dependencies, model: ModelId, options: RemoveModelOptions, *, caller: str) -> list[Operation]:
    return submit_model_removal(api.submitter, api.planner.placement(), model, options, caller=caller)


def _pin_model(
    api: Dependencies,
    model: ModelId,
    options: PinModelOptions,
    *,
    kind: Literal[Kind.PIN_MODEL, Kind.UNPIN_MODEL],
    caller: str,
) -> list[Operation]:
    return submit_model_pin(api.submitter, api.planner.placement(), model, options, kind=kind, caller=caller)


def _prune_models(api: Dependencies, options: PruneModelsOptions, *, caller: str) -> list[Operation]:
    return submit_model_prune(api.submitter, api.planner.placement(), options, caller=caller)


def _place(model: HostModel) -> str:
    return f"{model.host} {model.where == 'path'} {model.model or ''} {model.name}"


def _record(engine: Engine) -> EngineRecord:
    return EngineRecord.model_construct(**dict(engine))
