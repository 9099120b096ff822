"""The route of what hosts and instances use now, as their workers last measured it."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from aima_api.dependencies import Api
from aima_core.domain.hosts import HostUsage
from aima_core.domain.ids import HostName

router = APIRouter(prefix="/v1", tags=["hosts"])


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


class Usage(BaseModel):
    items: list[UsageOfHost]


@router.get("/usage")
def show_usage(api: Api) -> Usage:
    """Show the CPU and memory that hosts and their instances use, measured every 5 seconds, and allocated GPUs."""
    hosts = api.hosts.all()
    names = [host.name for host in hosts]
    usage, held = api.hosts.usage_of(names), api.planner.allocations.held_on(names)
    gpus = {name: {gpu for each in held[name].values() for gpu in each.gpus} for name in names}
    return Usage(
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
