"""Starts, stops and restarts of a service: each answers 202 with one operation per instance."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from aima_api.access.scopes import RequestAccess
from aima_api.dependencies import Access, Api, Dependencies, GivenKey, IdempotencyKey
from aima_api.http.idempotency import OwnedKey
from aima_api.http.schemas import (
    PlanOptions,
    RestartOptions,
    RollbackOptions,
    ServiceOptions,
    StartOptions,
    StopOptions,
)
from aima_api.planning.merge import earlier_revision
from aima_api.planning.preview import Plan, plan_changes
from aima_api.submission.starts import StartRequest
from aima_core.domain.ids import ServiceId
from aima_core.domain.operations import Operation
from aima_core.domain.services import GONE, Desired
from aima_core.errors import AimaError, Failure, SourceUnresolved
from aima_core.store.whereabouts import Stored, verified
from aima_core.trust.orders import Mandate
from aima_core.trust.records import SignedService

router = APIRouter(prefix="/v1/services", tags=["services"])


class Submitted(BaseModel):
    operations: list[Operation]


class Started(Submitted):
    unchanged: bool
    """It runs as asked already: nothing was submitted."""


class RefusedPlan(BaseModel):
    """In place of the plan of a service that cannot be planned, such as one whose model the catalog does not have."""

    service: ServiceId
    failure: Failure


class Plans(BaseModel):
    items: list[Plan | RefusedPlan]
    """In the order of the request."""


@router.post("/{id}:start", status_code=202, response_model=Started)
async def start(
    http: Request, id: ServiceId, body: StartOptions | None = None, idempotency_key: GivenKey = None
) -> Response:
    """Start a service as stored, changed by the given options; it is created if it does not exist."""
    # Read here: dependencies of the framework's would take a tenth of the time of this most frequent request.
    api: Dependencies = http.app.state.dependencies
    access: RequestAccess = http.state.access
    options = body or StartOptions()
    mandate = Mandate(access.caller.name, options.expires)
    request = StartRequest(id, options, mandate=mandate, keep_failed=options.on_failure == "keep")
    if idempotency_key is None:
        try:
            return _accepted(await api.batched_start(request))
        except SourceUnresolved:
            again = partial(api.starts.start, request)
            return _accepted(await run_in_threadpool(api.resolving, again))
    key = OwnedKey(access.caller.id, idempotency_key)
    submit = partial(api.resolving, partial(api.starts.start, request))
    return _accepted(await run_in_threadpool(api.idempotency.once, key, f"start {id}", options, submit))


@router.post("/{id}:stop", status_code=202)
def stop(
    api: Api, access: Access, id: ServiceId, body: StopOptions | None = None, idempotency_key: IdempotencyKey = None
) -> Submitted:
    """Stop a service. Idempotent."""
    options = body or StopOptions()
    mandate = Mandate(access.caller.name)
    submit = partial(api.stops.stop, id, hosts=options.hosts, grace=options.grace, mandate=mandate)
    return Submitted(operations=api.idempotency.once(idempotency_key, f"stop {id}", options, submit))


@router.post("/{id}:restart", status_code=202)
def restart(
    api: Api, access: Access, id: ServiceId, body: RestartOptions | None = None, idempotency_key: IdempotencyKey = None
) -> Submitted:
    """Remove the running containers and start the service as stored."""
    options = body or RestartOptions()
    api.services.get(id)
    desired = [each for each in api.services.instances_of(id) if each.desired is Desired.RUNNING]
    hosts = options.hosts or [each.id.host for each in desired if each.state not in GONE]
    request = StartRequest(id, ServiceOptions(), hosts=hosts, replace=True, mandate=Mandate(access.caller.name))
    submit = partial(api.resolving, partial(api.starts.start, request))
    return Submitted(operations=api.idempotency.once(idempotency_key, f"restart {id}", options, submit))


@router.post("/{id}:rollback", status_code=202)
def rollback(
    api: Api, access: Access, id: ServiceId, body: RollbackOptions | None = None, idempotency_key: IdempotencyKey = None
) -> Started:
    """Make an earlier revision the newest one: started where the service is to run, else stored only."""
    options, caller = body or RollbackOptions(), access.caller.name
    where = api.services.placements([id])[id]
    runs = bool(where.wanted)

    def earlier(current: SignedService) -> Mapping[str, Any]:
        return earlier_revision(api.services.revisions(id), current.spec, options.to).content

    def make(stored: Stored | None) -> SignedService:
        current = verified(id, stored)
        return api.submitter.signed_service(current, id, earlier(current), caller)

    def submit() -> list[Operation]:
        if not runs:
            where.check_no_candidate()
            api.services.change(id, make)
            return []
        spec = earlier(api.services.get(id))
        mandate, keep = Mandate(caller, options.expires), options.on_failure == "keep"
        request = StartRequest(id, ServiceOptions(), mandate=mandate, keep_failed=keep, spec=spec)
        return api.resolving(partial(api.starts.start, request))

    operations = api.idempotency.once(idempotency_key, f"rollback {id}", options, submit)
    return Started(operations=operations, unchanged=runs and not operations)


@router.post("/{id}:plan")
def plan_start(api: Api, id: ServiceId, body: ServiceOptions | None = None) -> Plan:
    """Preview a start with these options: where it would go, and the obstacles of every other host."""
    [plan] = plan_changes(api.planner, api.services, {id: body or ServiceOptions()})
    if isinstance(plan, AimaError):
        raise plan
    return plan


@router.post(":plan", response_model=Plans)
def plan_starts(api: Api, body: PlanOptions) -> Response:
    """Preview the starts of several services, planned together: each counts what those before it allocate."""
    options = {each.id: each for each in body.services}
    found = plan_changes(api.planner, api.services, options)
    plans = [
        RefusedPlan(service=id, failure=plan.failure) if isinstance(plan, AimaError) else plan
        for id, plan in zip(options, found, strict=True)
    ]
    return Response(Plans.model_construct(items=plans).model_dump_json(), media_type="application/json")


def _accepted(operations: list[Operation]) -> Response:
    """Serialized here: the framework would validate each of a thousand operations again."""
    text = Started.model_construct(operations=operations, unchanged=not operations).model_dump_json()
    return Response(text, status_code=202, media_type="application/json")
