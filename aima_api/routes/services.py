"""Services: what is asked for, and the instances there are of it."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter
from pydantic import BaseModel

from aima_api.parts import Api, Cursor, Limit, Parts
from aima_api.requests import CreateService
from aima_api.specification import new_service
from aima_core.failures import OperationInProgress, ServiceRunning
from aima_core.ids import HostName, ServiceId
from aima_core.services import Instance, InstanceState, Service

router = APIRouter(prefix="/v1/services", tags=["services"])

GONE = (InstanceState.STOPPED, InstanceState.FAILED)
"""Nothing of such an instance is left on its host."""


class ServiceStatus(Service):
    instances: tuple[Instance, ...]


class Services(BaseModel):
    items: list[ServiceStatus]
    next: str | None


@router.post("", status_code=201)
def create(api: Api, body: CreateService) -> Service:
    """Write down what a service is, without starting it; again replaces that."""
    service = new_service(body.id, body)
    api.prospects.check(service)
    api.services.put(service)
    return service


@router.get("")
def list_services(api: Api, limit: Limit = 100, cursor: Cursor = None) -> Services:
    services, after = api.services.page(limit=limit, after=cursor)
    return Services(items=_with_instances(api, services), next=after)


@router.get("/{id}")
def show(api: Api, id: ServiceId) -> ServiceStatus:
    return _with_instances(api, [api.services.get(id)])[0]


@router.delete("/{id}", status_code=204)
def remove(api: Api, id: ServiceId) -> None:
    """Forget a service that runs nowhere."""
    api.services.get(id)
    if up := [instance.id.host for instance in api.services.instances_of(id) if instance.state not in GONE]:
        raise ServiceRunning(service=id, hosts=", ".join(up))
    for operation in api.operations.unended():
        if operation.service == id:
            raise OperationInProgress(what=id, operation=operation.id)
    api.services.remove(id)


def _with_instances(api: Parts, services: Sequence[Service]) -> list[ServiceStatus]:
    live = {host.name for host in api.hosts.all() if host.live}
    instances = api.services.instances_of_each([service.id for service in services])
    return [
        ServiceStatus(
            **service.model_dump(),
            instances=tuple(_as_far_as_known(instance, live) for instance in instances[service.id]),
        )
        for service in services
    ]


def _as_far_as_known(instance: Instance, live: set[HostName]) -> Instance:
    """What a host said of it before it fell silent may be true no longer."""
    if instance.id.host in live or instance.state in GONE:
        return instance
    return instance.model_copy(update={"state": InstanceState.UNKNOWN})
