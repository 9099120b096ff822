"""Routes of images: pulls without a start."""

from __future__ import annotations

from fastapi import APIRouter

from aima_api.dependencies import Api, IdempotencyKey
from aima_api.http.schemas import PullOptions
from aima_api.routes.operations import Submitted

router = APIRouter(prefix="/v1", tags=["images"])


@router.post("/images:pull", status_code=202)
def pull(api: Api, body: PullOptions, idempotency_key: IdempotencyKey = None) -> Submitted:
    """Pull an image, or an engine's: to the hosts, to every live host of the route, or to all that may run it."""
    operations = api.idempotency.once(idempotency_key, "pull", body, lambda: api.pulls.pull(body))
    return Submitted(operations=operations)
