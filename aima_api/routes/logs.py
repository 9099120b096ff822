"""What a service's containers say: read once, or followed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from aima_api.dependencies import Api, Dependencies
from aima_api.logs.fanout import HostLine
from aima_api.logs.stream import LogQuery
from aima_core.domain.ids import HostName, InstanceId, ServiceId
from aima_core.domain.units import parse_duration
from aima_core.errors import InvalidRequest
from aima_core.logs.protocol import MAX_TAIL

router = APIRouter(prefix="/v1/services", tags=["services"])

TAIL = 100
"""Lines of each host, unless asked otherwise; with `since`, all that can be had."""
_EVENTS = "text/event-stream"

Tail = Annotated[int | None, Query(ge=1, le=MAX_TAIL)]
Since = Annotated[str | None, Query(max_length=64, examples=["10m", "2026-01-31T12:00:00Z"])]
Hosts = Annotated[list[HostName] | None, Query(max_length=1000)]


class LogPage(BaseModel):
    items: list[HostLine]
    """In the order of time."""
    notes: list[str]
    """What a reader should know of them, such as that a host is away."""


@router.get(
    "/{id}/logs",
    response_model=LogPage,
    responses={200: {"content": {_EVENTS: {}}, "description": "Lines, or events `line`, `note` and `end`"}},
)
async def logs(
    api: Api,
    id: ServiceId,
    follow: bool = False,
    tail: Tail = None,
    since: Since = None,
    host: Hosts = None,
    accept: Annotated[str, Header()] = "",
) -> Response:
    """The last lines of its instances; with `follow`, what they say from then on, until they are stopped."""
    lines = MAX_TAIL if since else TAIL
    instances = await run_in_threadpool(_instances, api, id, host or [])
    query = LogQuery(instances, tail=tail or lines, since=_moment(since) if since else None)
    if follow or _EVENTS in accept:
        return api.open_streams.stream(api.logs.stream(query, follow=follow))
    items, notes = await api.logs.read(query)
    return JSONResponse(LogPage(items=items, notes=notes).model_dump(mode="json"))


def _instances(api: Dependencies, id: ServiceId, hosts: list[HostName]) -> list[InstanceId]:
    """Those that there are, or the ones on these hosts. Raises UnknownService and UnknownHost."""
    api.services.get(id)
    if not hosts:
        return [instance.id for instance in api.services.instances_of(id)]
    return [id.on(api.hosts.get(host).name) for host in dict.fromkeys(hosts)]


def _moment(text: str) -> datetime:
    try:
        return datetime.now(UTC) - parse_duration(text)
    except (ValueError, OverflowError):
        return _timestamp(text)


def _timestamp(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = datetime.min
    if moment.tzinfo is None:
        detail = f"`since`: {text!r} is neither a duration nor a time with its zone."
        raise InvalidRequest(detail=detail, remedy="Write it such as `10m` or `2026-01-31T12:00:00Z`.")
    return moment.astimezone(UTC)
