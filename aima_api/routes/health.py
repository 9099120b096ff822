"""Whether this API node lives and can do its work, for balancers without a key; and its metrics, for who has one."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from fastapi import APIRouter, Response

from aima_api.controllers.failure_detector import detect_lost_hosts
from aima_api.dependencies import Api
from aima_api.http.metrics import CONTENT_TYPE
from aima_core.errors import BrokerUnavailable

router = APIRouter(tags=["health"])

ANSWERS_WITHIN = timedelta(seconds=2)


@router.get("/healthz")
async def alive() -> dict[str, str]:
    return {"status": "alive"}


@router.get("/readyz")
async def ready(api: Api) -> dict[str, str | None]:
    """503 while Redis does not answer. `suspicion` says why this side may be cut off from many hosts, if it may."""
    try:
        async with asyncio.timeout(ANSWERS_WITHIN.total_seconds()):
            hosts = await asyncio.to_thread(api.hosts.all)
    except TimeoutError as silent:
        raise BrokerUnavailable(detail="it is silent") from silent
    return {"status": "ready", "suspicion": detect_lost_hosts(hosts, after=api.move_after).partition_suspected}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(api: Api) -> Response:
    """What Prometheus reads."""
    return Response(api.metrics.read(), media_type=CONTENT_TYPE)
