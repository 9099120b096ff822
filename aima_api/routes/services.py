"""Routes of services: their stored specs with the status of their instances."""

from __future__ import annotations

import json

from fastapi import APIRouter, Response
from pydantic import BaseModel

from aima_api.dependencies import Api, Cursor, Limit
from aima_api.http.schemas import CreateService
from aima_api.planning.planner import merged_service
from aima_core.domain.ids import ServiceId
from aima_core.domain.services import GONE, Instance, Service
from aima_core.errors import OperationInProgress, ServiceRunning

router = APIRouter(prefix="/v1/services", tags=["services"])


class ServiceStatus(Service):
    instances: tuple[Instance, ...]


class Services(BaseModel):
    items: list[ServiceStatus]
    next: str | None


@router.post("", status_code=201)
def create(api: Api, body: CreateService) -> Service:
    """Store a service's spec without starting it; replaces a stored one."""
    service = merged_service(None, body.id, body)
    api.planner.check(service)
    api.services.put(service)
    return service


@router.get("", response_model=Services)
def list_services(api: Api, limit: Limit = 100, cursor: Cursor = None) -> Response:
    """List services by id, with the status of their instances."""
    services, after = api.services.listing(limit=limit, after=cursor)
    return _json(f'{{"items":[{services}],"next":{json.dumps(after)}}}')


@router.get("/{id}", response_model=ServiceStatus)
def show(api: Api, id: ServiceId) -> Response:
    """Show a service with the status of its instances."""
    return _json(api.services.status(id))


@router.delete("/{id}", status_code=204)
def remove(api: Api, id: ServiceId) -> None:
    """Remove a service without running instances."""
    api.services.get(id)
    if up := [instance.id.host for instance in api.services.instances_of(id) if instance.state not in GONE]:
        raise ServiceRunning(service=id, hosts=", ".join(up))
    for operation in api.operations.list_active():
        if operation.service == id:
            raise OperationInProgress(what=id, operation=operation.id)
    api.services.remove(id)


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")
