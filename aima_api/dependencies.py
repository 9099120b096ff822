"""The dependencies of the routes, built by the composition root."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Header, Query, Request

from aima_api.catalog.selection import Catalog
from aima_api.controllers.failover import Failover
from aima_api.events.stream import EventStreams
from aima_api.http.idempotency import Idempotency
from aima_api.http.metrics import Metrics
from aima_api.http.sse import OpenStreams
from aima_api.logs.stream import LogStreams
from aima_api.planning.planner import StartPlanner
from aima_api.submission.cancellation import Cancellations
from aima_api.submission.starts import Batcher, StartRequest, StartSubmission
from aima_api.submission.stops import Stops
from aima_api.submission.submitter import Submitter
from aima_core.domain.operations import Operation
from aima_core.redis.interface import TextRedis
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore
from aima_core.store.services import ServiceStore
from aima_core.store.unreadable import UnreadableRecords


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
    batched_start: Batcher[StartRequest, list[Operation]]
    stops: Stops
    submitter: Submitter
    cancellations: Cancellations
    failover: Failover
    idempotency: Idempotency
    streams: EventStreams
    logs: LogStreams
    open_streams: OpenStreams
    metrics: Metrics
    unreadable: UnreadableRecords


async def _dependencies(request: Request) -> Dependencies:  # async: FastAPI runs a plain function in a thread
    dependencies = request.app.state.dependencies
    assert isinstance(dependencies, Dependencies)
    return dependencies


Api = Annotated[Dependencies, Depends(_dependencies)]
IdempotencyKey = Annotated[str | None, Header()]
Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[str | None, Query(max_length=400)]
"""The `next` of the previous page."""
