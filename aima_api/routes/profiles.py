"""Routes of profiles: the hosts that match, and their recommended services planned and started together."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel

from aima_api.dependencies import Access, Api, Cursor, Dependencies, IdempotencyKey, WholeLimit, page_of
from aima_api.http.schemas import ProfileOptions, ServiceOptions
from aima_api.planning.preview import Plan, plan_changes
from aima_api.planning.profiles import ProfileRecord, options_of, record_of
from aima_api.routes.service_actions import Started
from aima_api.submission.starts import StartRequest
from aima_core.domain.ids import ServiceId
from aima_core.domain.operations import Operation
from aima_core.errors import AimaError, ProfileDoesNotFit, WouldWait
from aima_core.trust.orders import Mandate

router = APIRouter(prefix="/v1/profiles", tags=["profiles"])

Name = Annotated[str, Path(description="Its name in the catalog.")]


class Profiles(BaseModel):
    items: list[ProfileRecord]
    next: str | None


class ProfilePlans(BaseModel):
    items: list[Plan]


@router.get("")
def list_profiles(api: Api, limit: WholeLimit = None, cursor: Cursor = None) -> Profiles:
    """List the profiles of the catalog by name, with the hosts that match."""
    items, after = page_of(api.catalog.profiles, limit=limit, after=cursor)
    hosts = api.planner.placement().hosts
    return Profiles(items=[record_of(each, api.catalog, hosts) for each in items], next=after)


@router.get("/{name}")
def show_profile(api: Api, name: Name) -> ProfileRecord:
    """Show a profile: its services, and what keeps each host from matching."""
    return record_of(api.catalog.profile(name[:200]), api.catalog, api.planner.placement().hosts)


@router.post("/{name}:plan")
def plan_profile(api: Api, name: Name, body: ProfileOptions | None = None) -> ProfilePlans:
    """Preview the start of a profile's services, planned together: each counts what those before it allocate."""
    options = _options(api, name, body or ProfileOptions())
    plans = []
    for plan in plan_changes(api.planner, api.services, options):
        if isinstance(plan, AimaError):
            raise plan
        plans.append(plan)
    return ProfilePlans(items=plans)


@router.post("/{name}:apply", status_code=202)
def apply_profile(
    api: Api, access: Access, name: Name, body: ProfileOptions | None = None, idempotency_key: IdempotencyKey = None
) -> Started:
    """Start the services that a profile recommends, the largest first; all of them, or none if one would wait."""
    options = body or ProfileOptions()
    submit = partial(api.resolving, partial(_apply, api, name, options, Mandate(access.caller.name)))
    operations = api.idempotency.once(idempotency_key, f"apply profile {name}", options, submit)
    return Started(operations=operations, unchanged=not operations)


def _apply(api: Dependencies, name: str, body: ProfileOptions, mandate: Mandate) -> list[Operation]:
    options = _options(api, name, body)
    requests = [StartRequest(id, each, mandate, only_now=True) for id, each in options.items()]
    try:
        return [operation for started in api.starts.start_together(requests) for operation in started]
    except WouldWait as waits:
        raise ProfileDoesNotFit(profile=name, detail=str(waits.facts["detail"])) from waits


def _options(api: Dependencies, name: str, body: ProfileOptions) -> dict[ServiceId, ServiceOptions]:
    hosts = api.planner.placement().hosts
    return options_of(api.catalog.profile(name[:200]), api.catalog, hosts, named=body.hosts)
