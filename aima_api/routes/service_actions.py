"""Starting, stopping and restarting a service: each answers 202 with one operation per instance."""

from __future__ import annotations

from fastapi import APIRouter

from aima_api.parts import Api, IdempotencyKey, Parts
from aima_api.requests import RestartOptions, ServiceOptions, StopOptions
from aima_api.routes.operations import Submitted
from aima_api.routes.services import GONE
from aima_api.specification import changed, new_service
from aima_core.failures import UnknownService
from aima_core.ids import ServiceId
from aima_core.services import Service

router = APIRouter(prefix="/v1/services", tags=["services"])


@router.post("/{id}:start", status_code=202)
def start(
    api: Api, id: ServiceId, body: ServiceOptions | None = None, idempotency_key: IdempotencyKey = None
) -> Submitted:
    """Bring a service up: as it was written down, changed by the options given; created if there is none."""
    options = body or ServiceOptions()
    service = as_asked(api, id, options)
    operations = api.idempotency.once(idempotency_key, f"start {id}", options, lambda: api.starts.start(service))
    return Submitted(operations=operations)


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
    service = api.services.get(id)
    hosts = options.hosts or [each.id.host for each in api.services.instances_of(id) if each.state not in GONE]
    operations = api.idempotency.once(
        idempotency_key,
        f"restart {id}",
        options,
        lambda: api.starts.start(service, hosts=hosts, replace=True),
    )
    return Submitted(operations=operations)


def as_asked(api: Parts, id: ServiceId, options: ServiceOptions) -> Service:
    """The service as it was written down, changed by the options; a new one if there is none."""
    try:
        return changed(api.services.get(id), options)
    except UnknownService:
        return new_service(id, options)
