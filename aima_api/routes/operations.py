"""Routes of operations: list, show and cancel them, and stream their events."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from aima_api.dependencies import Api, Cursor, Limit
from aima_api.http.sse import EventStream
from aima_core.domain.ids import HostName, OperationId, ServiceId
from aima_core.domain.operations import Event, Kind, Operation, State
from aima_core.errors import InvalidRequest

router = APIRouter(prefix="/v1", tags=["operations"])

LastEventId = Annotated[str | None, Header(description="The `id:` of the last event received on this stream.")]


class Operations(BaseModel):
    items: list[Operation]
    next: str | None


class RecentEvents(BaseModel):
    items: list[Event]
    last: str


@router.get("/operations")
def list_operations(
    api: Api,
    state: Annotated[State | None, Query(description="Only those in this state.")] = None,
    kind: Annotated[Kind | None, Query(description="Only those of this kind.")] = None,
    service: Annotated[ServiceId | None, Query(description="Only those of this service.")] = None,
    host: Annotated[HostName | None, Query(description="Only those on this host.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Operations:
    """List operations, newest first."""
    filters = {"state": state, "kind": kind, "service": service, "host": host}
    having = {name: str(value) for name, value in filters.items() if value is not None}
    page = api.operations.page(limit=limit, after=cursor, having=having)
    return Operations(items=page.items, next=page.after)


@router.get("/operations/{id}")
def show(api: Api, id: OperationId) -> Operation:
    """Show an operation: its phase, progress and outcome."""
    return api.operations.get(id)


@router.post("/operations/{id}:cancel", status_code=202)
def cancel(api: Api, id: OperationId) -> Operation:
    """Cancel an operation: at once if no worker has claimed it, else within a second. Idempotent."""
    return api.cancellations.cancel(id)


@router.get("/operations/{id}/events", response_class=EventStream, status_code=200)
async def events(api: Api, id: OperationId, last_event_id: LastEventId = None) -> EventStream:
    """Stream the operation's events, past ones first, up to its end. Resumes after `Last-Event-ID`."""
    after = int(_event_id(last_event_id or "0", pattern="[0-9]{1,15}"))
    await run_in_threadpool(api.operations.get, id)
    return api.open_streams.stream(api.streams.of_operation(id, after))


@router.get("/events/recent")
def recent_events(api: Api, limit: Limit = 100) -> RecentEvents:
    """The last events of all operations, in order. `last` is the `Last-Event-ID` with which the stream goes on."""
    events = api.operations.recent_events(limit)
    last = events[-1][0] if events else api.operations.last_event_id()
    return RecentEvents(items=[event for _, event in events], last=last)


@router.get("/events", response_class=EventStream, status_code=200)
async def all_events(api: Api, last_event_id: LastEventId = None) -> EventStream:
    """Stream the events of all operations, from now on or after `Last-Event-ID`."""
    if last_event_id:
        after = _event_id(last_event_id, pattern="[0-9]{1,19}-[0-9]{1,19}")
    else:
        after = await run_in_threadpool(api.operations.last_event_id)
    return api.open_streams.stream(api.streams.of_all(after))


def _event_id(text: str, *, pattern: str) -> str:
    if not re.fullmatch(pattern, text):
        remedy = "Send the `id:` of the last event received on this stream, or omit the header."
        detail = f"Last-Event-ID {text[:100]!r} is not an event id of this stream."
        raise InvalidRequest(detail=detail, remedy=remedy)
    return text
