"""Routes of the catalog: the engines and models that this node loaded."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, computed_field

from aima_api.catalog.live import CatalogStatus
from aima_api.dependencies import Api, Cursor, WholeLimit, page_of
from aima_api.planning.startable import StartableModel, startable
from aima_core.domain.catalog import Engine, digest_in

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


def _record(engine: Engine) -> EngineRecord:
    return EngineRecord.model_construct(**dict(engine))
