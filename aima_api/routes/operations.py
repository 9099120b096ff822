"""Operations: listed, shown, followed and cancelled."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from aima_api.dependencies import Api, Cursor, Limit
from aima_api.http.sse import EventStream
from aima_core.domain.ids import HostName, OperationId, ServiceId
from aima_core.domain.operations import Kind, Operation, State
from aima_core.errors import InvalidRequest

router = APIRouter(prefix="/v1", tags=["operations"])

LastEventId = Annotated[str | None, Header()]
_PLACE = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")


class Submitted(BaseModel):
    operations: list[Operation]


class Operations(BaseModel):
    items: list[Operation]
    next: str | None


@router.get("/operations")
def list_operations(
    api: Api,
    state: State | None = None,
    kind: Kind | None = None,
    service: ServiceId | None = None,
    host: HostName | None = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Operations:
    """The newest first."""
    asked = {"state": state, "kind": kind, "service": service, "host": host}
    having = {name: str(value) for name, value in asked.items() if value is not None}
    page = api.operations.page(limit=limit, after=cursor, having=having)
    return Operations(items=page.items, next=page.after)


@router.get("/operations/{id}")
def show(api: Api, id: OperationId) -> Operation:
    return api.operations.get(id)


@router.post("/operations/{id}:cancel", status_code=202)
def cancel(api: Api, id: OperationId) -> Operation:
    """Ask for its end; one that has ended stays as it is."""
    return api.cancellations.cancel(id)


@router.get("/operations/{id}/events", response_class=EventStream, status_code=200)
async def events(api: Api, id: OperationId, last_event_id: LastEventId = None) -> EventStream:
    """What happened to it, and what happens from now on, up to its end. Resumes after `Last-Event-ID`."""
    after = _number(last_event_id)
    await run_in_threadpool(api.operations.get, id)
    return api.open_streams.stream(api.streams.of_operation(id, after))


@router.get("/events", response_class=EventStream, status_code=200)
async def all_events(api: Api, last_event_id: LastEventId = None) -> EventStream:
    """What happens to all operations, from now on or after `Last-Event-ID`."""
    after = _place(last_event_id) if last_event_id else await run_in_threadpool(api.operations.last_event_id)
    return api.open_streams.stream(api.streams.of_all(after))


def _number(text: str | None) -> int:
    if text and not re.fullmatch("[0-9]{1,15}", text):
        raise _unfit(text)
    return int(text or 0)


def _place(text: str) -> str:
    if not _PLACE.fullmatch(text):
        raise _unfit(text)
    return text


def _unfit(text: str) -> InvalidRequest:
    remedy = "Send the `id:` of the last event that came on this stream, or leave the header away."
    return InvalidRequest(detail=f"Last-Event-ID {text[:100]!r} is not one of this stream's.", remedy=remedy)
