"""Routes of a service's logs: read once, or followed as server-sent events."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from aima_api.dependencies import Api, Dependencies
from aima_api.logs.fanout import HostLine
from aima_core.domain.ids import HostName, InstanceId, ServiceId
from aima_core.domain.units import parse_duration
from aima_core.errors import InvalidRequest
from aima_core.logs.protocol import MAX_TAIL, LogRequest

router = APIRouter(prefix="/v1/services", tags=["services"])

DEFAULT_TAIL = 100
"""Lines per host; with `since`, MAX_TAIL."""
_EVENTS = "text/event-stream"

Follow = Annotated[bool, Query(description="Also stream later lines, as server-sent events.")]
Tail = Annotated[int | None, Query(ge=1, le=MAX_TAIL, description="The last lines of each instance.")]
Since = Annotated[
    str | None,
    Query(max_length=64, examples=["10m", "2026-01-31T12:00:00Z"], description="From this time, or so long ago."),
]
Hosts = Annotated[list[HostName] | None, Query(max_length=1000, description="Only on this host; repeat for several.")]
Accept = Annotated[str, Header(description="`text/event-stream` follows, as `follow` does.")]


class LogPage(BaseModel):
    items: list[HostLine]
    """In the order of time."""
    notes: list[str]
    """Sentences on missing lines, such as that a host is away."""


@router.get(
    "/{id}/logs",
    response_model=LogPage,
    responses={200: {"content": {_EVENTS: {}}, "description": "Lines, or events `line`, `note` and `end`"}},
)
async def logs(
    api: Api,
    id: ServiceId,
    follow: Follow = False,
    tail: Tail = None,
    since: Since = None,
    host: Hosts = None,
    accept: Accept = "",
) -> Response:
    """The last lines of its instances; with `follow`, also later lines, until the instances are stopped."""
    lines = tail or (MAX_TAIL if since else DEFAULT_TAIL)
    start = _moment(since) if since else None
    instances = await run_in_threadpool(_instances, api, id, host or [])
    requests = [LogRequest(instance=instance, tail=lines, since=start, follow=follow) for instance in instances]
    if follow or _EVENTS in accept:
        return api.open_streams.stream(api.logs.stream(requests))
    items, notes = await api.logs.read(requests)
    return JSONResponse(LogPage(items=items, notes=notes).model_dump(mode="json"))


def _instances(api: Dependencies, id: ServiceId, hosts: list[HostName]) -> list[InstanceId]:
    """The existing instances, or one on each of these hosts. Raises UnknownService and UnknownHost."""
    api.services.get(id)
    if not hosts:
        return [instance.id for instance in api.services.instances_of(id)]
    return [id.on(api.hosts.get(host).name) for host in dict.fromkeys(hosts)]


def _moment(text: str) -> datetime:
    """Of a duration before now, or of a timestamp."""
    with suppress(ValueError, OverflowError):
        return datetime.now(UTC) - parse_duration(text)
    with suppress(ValueError, OverflowError):
        if (moment := datetime.fromisoformat(text)).tzinfo is not None:
            return moment.astimezone(UTC)
    detail = f"`since`: {text!r} is neither a duration nor a time with its zone."
    raise InvalidRequest(detail=detail, remedy="Write it such as `10m` or `2026-01-31T12:00:00Z`.")
