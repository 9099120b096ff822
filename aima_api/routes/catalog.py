"""Routes of the catalog: the engines and models that this node loaded."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from aima_api.dependencies import Api
from aima_core.domain.catalog import Engine, Model

router = APIRouter(prefix="/v1", tags=["catalog"])


class Engines(BaseModel):
    items: tuple[Engine, ...]
    next: None = None


class Models(BaseModel):
    items: tuple[Model, ...]
    next: None = None


@router.get("/engines")
async def list_engines(api: Api) -> Engines:
    return Engines(items=api.catalog.engines)


@router.get("/engines/{name}")
async def show_engine(api: Api, name: str) -> Engine:
    return api.catalog.engine(name[:200])


@router.get("/models")
async def list_models(api: Api) -> Models:
    return Models(items=api.catalog.models)


@router.get("/models/{name}")
async def show_model(api: Api, name: str) -> Model:
    return api.catalog.model(name[:200])
