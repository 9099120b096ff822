"""Ports: who holds which, on all hosts."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from aima_api.dependencies import Api
from aima_core.domain.services import PortLease
from aima_core.store.ports import PortStore

router = APIRouter(prefix="/v1", tags=["ports"])


class Ports(BaseModel):
    items: list[PortLease]
    next: None = None


@router.get("/ports")
def list_ports(api: Api) -> Ports:
    leases = [lease for host in api.hosts.all() for lease in PortStore(api.redis, host.name).all()]
    return Ports(items=leases)
