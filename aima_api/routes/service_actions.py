"""Starting, stopping and restarting a service: each answers 202 with one operation per instance."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Response
from fastapi.concurrency import run_in_threadpool

from aima_api.dependencies import Api, IdempotencyKey
from aima_api.http.schemas import RestartOptions, ServiceOptions, StopOptions
from aima_api.planning.preview import Plan, plan
from aima_api.routes.operations import Submitted
from aima_api.submission.service_spec import StartRequest, as_asked
from aima_core.domain.ids import ServiceId
from aima_core.domain.operations import Operation
from aima_core.domain.services import GONE, Desired

router = APIRouter(prefix="/v1/services", tags=["services"])


@router.post("/{id}:start", status_code=202, response_model=Submitted)
async def start(
    api: Api, id: ServiceId, body: ServiceOptions | None = None, idempotency_key: IdempotencyKey = None
) -> Response:
    """Bring a service up: as it was written down, changed by the options given; created if there is none."""
    asked = StartRequest(id, body or ServiceOptions())
    if idempotency_key is None:
        return _accepted(await api.start_together(asked))
    start = partial(api.starts.start, asked)
    return _accepted(
        await run_in_threadpool(api.idempotency.once, idempotency_key, f"start {id}", asked.options, start)
    )


@router.post("/{id}:stop", status_code=202)
def stop(api: Api, id: ServiceId, body: StopOptions | None = None, idempotency_key: IdempotencyKey = None) -> Submitted:
    """Take a service down; where it is down already it stays so."""
    options = body or StopOptions()
    operations = api.idempotency.once(
        idempotency_key,
        f"stop {id}",
        options,
        lambda: api.wishes.stop(id, hosts=options.hosts, grace=options.grace),
    )
    return Submitted(operations=operations)


@router.post("/{id}:restart", status_code=202)
def restart(
    api: Api, id: ServiceId, body: RestartOptions | None = None, idempotency_key: IdempotencyKey = None
) -> Submitted:
    """Take down what runs and bring it up as it was written down."""
    options = body or RestartOptions()
    api.services.get(id)
    wanted = [each for each in api.services.instances_of(id) if each.desired is Desired.RUNNING]
    hosts = options.hosts or [each.id.host for each in wanted if each.state not in GONE]
    asked = StartRequest(id, ServiceOptions(), hosts=hosts, replace=True)
    operations = api.idempotency.once(idempotency_key, f"restart {id}", options, lambda: api.starts.start(asked))
    return Submitted(operations=operations)


@router.post("/{id}:plan")
def plan_start(api: Api, id: ServiceId, body: ServiceOptions | None = None) -> Plan:
    """Say where a start with these options would go, and why not to the other hosts; nothing is touched."""
    before, known, _ = api.services.placements([id])[id]
    return plan(api.planner, as_asked(before, id, body or ServiceOptions()), known=known)


def _accepted(operations: list[Operation]) -> Response:
    """Written here, since the framework would check each of a thousand operations again."""
    text = Submitted.model_construct(operations=operations).model_dump_json()
    return Response(text, status_code=202, media_type="application/json")
