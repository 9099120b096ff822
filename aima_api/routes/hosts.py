"""Hosts: what each has, and when it was last heard of."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from aima_api.parts import Api
from aima_core.ids import HostName
from aima_core.services import Host

router = APIRouter(prefix="/v1/hosts", tags=["hosts"])


class Hosts(BaseModel):
    items: list[Host]
    next: None = None


@router.get("")
def list_hosts(api: Api) -> Hosts:
    return Hosts(items=api.hosts.all())


@router.get("/{name}")
def show(api: Api, name: HostName) -> Host:
    return api.hosts.get(name)
