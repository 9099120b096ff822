"""Ports: who holds which, on all hosts."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from aima_api.parts import Api
from aima_core.port_store import PortStore
from aima_core.services import PortLease

router = APIRouter(prefix="/v1", tags=["ports"])


class Ports(BaseModel):
    items: list[PortLease]
    next: None = None


@router.get("/ports")
def list_ports(api: Api) -> Ports:
    leases = [lease for host in api.hosts.all() for lease in PortStore(api.redis, host.name).all()]
    return Ports(items=leases)
