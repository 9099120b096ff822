"""Routes of services: their stored specs with the status of their instances."""

from __future__ import annotations

import json
from contextlib import suppress

from fastapi import APIRouter, Response
from pydantic import BaseModel

from aima_api.dependencies import Api, Cursor, Limit
from aima_api.http.schemas import CreateService
from aima_api.planning.planner import merged_service
from aima_core.domain.ids import ServiceId
from aima_core.domain.services import GONE, Instance, Service
from aima_core.errors import Failure, OperationInProgress, ServiceRunning, UnknownService, UnverifiedService
from aima_core.trust.records import SignedService

router = APIRouter(prefix="/v1/services", tags=["services"])


class ServiceStatus(Service):
    instances: tuple[Instance, ...]


class RefusedService(BaseModel):
    """A service whose stored spec does not verify: nothing is started from it."""

    id: ServiceId
    failure: Failure
    instances: tuple[Instance, ...]


class Services(BaseModel):
    items: list[ServiceStatus | RefusedService]
    next: str | None


@router.post("", status_code=201)
def create(api: Api, body: CreateService) -> Service:
    """Store a service's spec without starting it; replaces a stored one."""
    service = merged_service(None, body.id, body)
    with suppress(UnknownService, UnverifiedService):
        replaced = api.services.get(body.id).spec
        service = service.model_copy(update={"created_at": replaced.created_at, "revision": replaced.revision + 1})
    api.planner.check(service)
    api.services.put(SignedService.of(service, api.submitter.signing_key))
    return service


@router.get("", response_model=Services)
def list_services(api: Api, limit: Limit = 100, cursor: Cursor = None) -> Response:
    services, after = api.services.listing(limit=limit, after=cursor)
    return _json(f'{{"items":[{services}],"next":{json.dumps(after)}}}')


@router.get("/{id}", response_model=ServiceStatus | RefusedService)
def show(api: Api, id: ServiceId) -> Response:
    return _json(api.services.status(id))


@router.delete("/{id}", status_code=204)
def remove(api: Api, id: ServiceId) -> None:
    """Remove a service without running instances."""
    if not api.services.exists(id):
        raise UnknownService(service=id)
    if up := [instance.id.host for instance in api.services.instances_of(id) if instance.state not in GONE]:
        raise ServiceRunning(service=id, hosts=", ".join(up))
    for operation in api.operations.list_active():
        if operation.service == id:
            raise OperationInProgress(what=id, operation=operation.id)
    api.services.remove(id)


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")
