"""Dry runs: what a start would come to."""

from __future__ import annotations

from fastapi import APIRouter

from aima_api.dependencies import Api
from aima_api.http.schemas import ServiceOptions
from aima_api.planning.preview import Plan, plan
from aima_api.submission.service_spec import as_asked
from aima_core.domain.ids import ServiceId

router = APIRouter(prefix="/v1/services", tags=["services"])


@router.post("/{id}:plan")
def plan_start(api: Api, id: ServiceId, body: ServiceOptions | None = None) -> Plan:
    """Say where a start with these options would go, and why not to the other hosts; nothing is touched."""
    before, known, _ = api.services.placements([id])[id]
    return plan(api.planner, as_asked(before, id, body or ServiceOptions()), known=known)
