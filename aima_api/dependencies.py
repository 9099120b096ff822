"""What the routes work with, as the composition root has put it together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Header, Query, Request

from aima_api.catalog.loader import Catalog
from aima_api.controllers.host_removal import HostRemoval
from aima_api.events.stream import EventStreams
from aima_api.http.idempotency import Idempotency
from aima_api.http.metrics import Metrics
from aima_api.http.sse import OpenStreams
from aima_api.logs.stream import LogStreams
from aima_api.planning.planner import StartPlanner
from aima_api.submission.service_spec import StartRequest
from aima_api.submission.starts import Batcher, StartSubmission
from aima_api.submission.stops import StopsAndPulls
from aima_core.domain.operations import Operation
from aima_core.redis.interface import TextRedis
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore
from aima_core.store.services import ServiceStore


@dataclass(frozen=True)
class Dependencies:
    catalog: Catalog
    redis: TextRedis
    move_after: timedelta
    operations: OperationStore
    services: ServiceStore
    hosts: HostStore
    planner: StartPlanner
    starts: StartSubmission
    start_together: Batcher[StartRequest, list[Operation]]
    wishes: StopsAndPulls
    host_removal: HostRemoval
    idempotency: Idempotency
    streams: EventStreams
    logs: LogStreams
    open_streams: OpenStreams
    metrics: Metrics


async def _parts(request: Request) -> Dependencies:  # async, since a plain function would cost each request a thread
    parts = request.app.state.parts
    assert isinstance(parts, Dependencies)
    return parts


Api = Annotated[Dependencies, Depends(_parts)]
IdempotencyKey = Annotated[str | None, Header()]
Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[str | None, Query(max_length=400)]
"""Where the page before ended: its `next`."""
