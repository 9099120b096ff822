"""Routes of hosts: their facts and last heartbeat, drain, resume and forget; and their port leases."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Response
from pydantic import BaseModel

from aima_api.dependencies import Access, Api, IdempotencyKey
from aima_api.http.schemas import DrainOptions
from aima_core.domain.hosts import Host, PortLease
from aima_core.domain.ids import HostName
from aima_core.domain.operations import Operation
from aima_core.store.ports import port_listing
from aima_core.trust.orders import Mandate

router = APIRouter(prefix="/v1/hosts", tags=["hosts"])
port_router = APIRouter(prefix="/v1", tags=["ports"])


class Hosts(BaseModel):
    items: list[Host]
    next: None = None


class Drained(BaseModel):
    host: Host
    operations: list[Operation]
    """The stops, if `stop` was set."""


@router.get("")
def list_hosts(api: Api) -> Hosts:
    return Hosts(items=api.hosts.all())


@router.get("/{name}")
def show(api: Api, name: HostName) -> Host:
    return api.hosts.get(name)


@router.delete("/{name}", status_code=204)
def forget(api: Api, name: HostName) -> None:
    """Forget a host that is gone for good: its work fails over to others; operations bound to it fail."""
    api.failover.forget(name)


@router.post("/{name}:drain", status_code=202)
def drain(
    api: Api, access: Access, name: HostName, body: DrainOptions | None = None, idempotency_key: IdempotencyKey = None
) -> Drained:
    """Exclude the host from starts, and with `stop` stop what runs there. Idempotent."""
    options = body or DrainOptions()
    submit = partial(api.stops.drain, name, stop=options.stop, mandate=Mandate(access.caller.name))
    operations = api.idempotency.once(idempotency_key, f"drain {name}", options, submit)
    return Drained(host=api.hosts.get(name), operations=operations)


@router.post("/{name}:resume")
def resume(api: Api, name: HostName) -> Host:
    """Admit the host to starts again; operations pending for it start. Idempotent."""
    api.hosts.resume(name)
    return api.hosts.get(name)


class Ports(BaseModel):
    items: list[PortLease]
    next: None = None


@port_router.get("/ports", response_model=Ports)
def list_ports(api: Api) -> Response:
    return Response(f'{{"items":[{port_listing(api.redis)}],"next":null}}', media_type="application/json")
