"""Routes of hosts: their facts and last heartbeat, drain, resume and forget; their usage; and their port leases."""

from __future__ import annotations

import json
from functools import partial

from fastapi import APIRouter, Response
from pydantic import BaseModel

from aima_api.dependencies import Access, Api, Cursor, IdempotencyKey, WholeLimit, page_of
from aima_api.http.schemas import DrainOptions
from aima_core.domain.hosts import Host, HostUsage, PortLease
from aima_core.domain.ids import HostName
from aima_core.domain.operations import Operation
from aima_core.store.ports import port_listing
from aima_core.trust.orders import Mandate

router = APIRouter(prefix="/v1/hosts", tags=["hosts"])
port_router = APIRouter(prefix="/v1", tags=["ports"])
usage_router = APIRouter(prefix="/v1", tags=["hosts"])


class Hosts(BaseModel):
    items: list[Host]
    unreadable: list[str] = []
    """Records in Redis that AIMA did not write, of hosts and of anything else; they are skipped."""
    next: str | None


class UsageOfHost(BaseModel):
    host: HostName
    live: bool
    cores: int
    memory: int
    """Bytes."""
    gpus: int
    gpus_allocated: int
    """Devices of which instances hold one or several."""
    usage: HostUsage | None
    """None while its worker reports none."""


class HostsUsage(BaseModel):
    items: list[UsageOfHost]


class Drained(BaseModel):
    host: Host
    operations: list[Operation]
    """The stops, if `stop` was set."""


@router.get("")
def list_hosts(api: Api, limit: WholeLimit = None, cursor: Cursor = None) -> Hosts:
    """List the hosts, by name."""
    items, after = page_of(api.hosts.all(), limit=limit, after=cursor)
    return Hosts(items=items, unreadable=api.unreadable.names(), next=after)


@router.get("/{name}")
def show(api: Api, name: HostName) -> Host:
    """Show a host: its facts and its last heartbeat."""
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
    next: str | None


@port_router.get("/ports", response_model=Ports)
def list_ports(api: Api, limit: WholeLimit = None, cursor: Cursor = None) -> Response:
    """List the ports that instances hold, by host and port."""
    leases, after = port_listing(api.redis, limit=limit, after=cursor)
    return Response(f'{{"items":[{leases}],"next":{json.dumps(after)}}}', media_type="application/json")


@usage_router.get("/hosts:usage")
def show_usage(api: Api) -> HostsUsage:
    """Show the CPU and memory that hosts and their instances use, measured every 5 seconds, and allocated GPUs."""
    hosts = api.hosts.all()
    names = [host.name for host in hosts]
    usage, held = api.hosts.usage_of(names), api.planner.allocations.held_on(names)
    gpus = {name: {gpu for each in held[name].values() for gpu in each.gpus} for name in names}
    return HostsUsage(
        items=[
            UsageOfHost(
                host=host.name,
                live=host.live,
                cores=host.cores,
                memory=host.memory,
                gpus=len(host.accelerators),
                gpus_allocated=len(gpus[host.name]),
                usage=usage.get(host.name),
            )
            for host in hosts
        ]
    )
