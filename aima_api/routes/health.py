"""Whether this API node lives, and whether it can do its work: for balancers and supervisors, without a key."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from fastapi import APIRouter

from aima_api.parts import Api
from aima_core.failures import BrokerUnavailable

router = APIRouter(tags=["health"])

ANSWERS_WITHIN = timedelta(seconds=2)


@router.get("/healthz")
async def alive() -> dict[str, str]:
    return {"status": "alive"}


@router.get("/readyz")
async def ready(api: Api) -> dict[str, str]:
    """503 while Redis does not answer."""
    try:
        async with asyncio.timeout(ANSWERS_WITHIN.total_seconds()):
            await asyncio.to_thread(api.redis.ping)
    except TimeoutError as silent:
        raise BrokerUnavailable(detail="it is silent") from silent
    return {"status": "ready"}
