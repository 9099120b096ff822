"""Liveness and readiness probes for load balancers, without a key; Prometheus metrics, with one."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from fastapi import APIRouter, Response

from aima_api.controllers.failure_detector import detect_lost_hosts
from aima_api.dependencies import Api
from aima_api.http.server import METRICS_TYPE
from aima_core.errors import BrokerUnavailable

router = APIRouter(tags=["health"])

READY_TIMEOUT = timedelta(seconds=2)


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """Liveness of this node."""
    return {"status": "alive"}


@router.get("/readyz")
async def ready(api: Api) -> dict[str, str | None]:
    """Readiness: 503 while Redis does not answer. `suspicion` names hosts that a partition may have cut off."""
    try:
        async with asyncio.timeout(READY_TIMEOUT.total_seconds()):
            hosts = await asyncio.to_thread(api.hosts.all)
    except TimeoutError as timeout:
        raise BrokerUnavailable(detail="it does not answer.") from timeout
    return {"status": "ready", "suspicion": detect_lost_hosts(hosts, after=api.move_after).partition_suspected}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(api: Api) -> Response:
    """The Prometheus exposition."""
    return Response(api.metrics.read(), media_type=METRICS_TYPE)
