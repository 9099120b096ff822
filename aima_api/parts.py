"""What the routes work with, as the composition root has put it together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Header, Query, Request

from aima_api.asked import Asked
from aima_api.catalog_files import Catalog
from aima_api.event_stream import EventStreams
from aima_api.forgetting import Forgetting
from aima_api.idempotency import Idempotency
from aima_api.log_streams import LogStreams
from aima_api.metrics import Metrics
from aima_api.open_streams import OpenStreams
from aima_api.prospects import Prospects
from aima_api.starts import Starts
from aima_api.together import Together
from aima_api.wishes import Wishes
from aima_core.host_store import HostStore
from aima_core.operation_store import OperationStore
from aima_core.operations import Operation
from aima_core.service_store import ServiceStore
from aima_core.text_redis import TextRedis


@dataclass(frozen=True)
class Parts:
    catalog: Catalog
    redis: TextRedis
    move_after: timedelta
    operations: OperationStore
    services: ServiceStore
    hosts: HostStore
    prospects: Prospects
    starts: Starts
    start_together: Together[Asked, list[Operation]]
    wishes: Wishes
    forgetting: Forgetting
    idempotency: Idempotency
    streams: EventStreams
    logs: LogStreams
    open_streams: OpenStreams
    metrics: Metrics


async def _parts(request: Request) -> Parts:  # async, since a plain function would cost each request a thread
    parts = request.app.state.parts
    assert isinstance(parts, Parts)
    return parts


Api = Annotated[Parts, Depends(_parts)]
IdempotencyKey = Annotated[str | None, Header()]
Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[str | None, Query(max_length=400)]
"""Where the page before ended: its `next`."""
