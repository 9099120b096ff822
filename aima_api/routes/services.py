"""Routes of services: their stored specs with the status of their instances."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from pydantic import AwareDatetime, BaseModel

from aima_api.dependencies import Access, Api, Cursor, Limit
from aima_api.http.schemas import CreateService, ServiceOptions
from aima_api.planning.merge import changed_fields, earlier_revision, merged_service, revised
from aima_core.domain.ids import ServiceId
from aima_core.domain.services import Instance, Service
from aima_core.errors import Failure
from aima_core.store.whereabouts import Stored, verified
from aima_core.trust.records import SignedService

router = APIRouter(prefix="/v1/services", tags=["services"])


class InstanceTraffic(BaseModel):
    """Of all gateways."""

    in_flight: int
    per_minute: int


TrafficByInstance = Mapping[str, InstanceTraffic] | None
"""By instance that gateways send requests to; only where one service is shown."""
InferenceUrl = str | None
"""Where applications send requests, with its id or its model as the model; only where one service is shown."""


class ServiceStatus(Service):
    instances: tuple[Instance, ...]
    traffic: TrafficByInstance = None
    inference_url: InferenceUrl = None


class RefusedService(BaseModel):
    """A service whose stored spec does not verify: nothing is started from it."""

    id: ServiceId
    failure: Failure
    instances: tuple[Instance, ...]
    traffic: TrafficByInstance = None
    inference_url: InferenceUrl = None


class Services(BaseModel):
    items: list[ServiceStatus | RefusedService]
    next: str | None


@router.post("", status_code=201)
def create(api: Api, access: Access, body: CreateService) -> Service:
    """Store a service's spec without starting it; replaces a stored one."""
    access.target = body.id
    spec = merged_service(None, body.id, body).content

    def make(stored: Stored | None) -> Service:
        before = stored.spec if isinstance(stored, SignedService) else None
        return revised(before, body.id, spec, caller=access.caller.name)

    return _store(api, body.id, make)


@router.patch("/{id}")
def change(api: Api, access: Access, id: ServiceId, body: ServiceOptions) -> Service:
    """Change a service's stored spec by a JSON merge patch, without starting it: null removes a field or a key."""

    def make(stored: Stored | None) -> Service:
        return merged_service(verified(id, stored).spec, id, body, caller=access.caller.name)

    return _store(api, id, make)


def _store(api: Api, id: ServiceId, make: Callable[[Stored | None], Service]) -> Service:
    """Stores a new revision, unless it is the stored one.

    Raises what a start of it would raise, and OperationInProgress while a start changes the spec.
    """
    api.services.placements([id])[id].check_no_candidate()

    def signed(stored: Stored | None) -> SignedService:
        service = make(stored)
        api.planner.check(service)
        return SignedService.of(service, api.submitter.signing_key)

    return api.services.change(id, signed).spec


@router.get("", response_model=Services)
def list_services(api: Api, limit: Limit = 100, cursor: Cursor = None) -> Response:
    """List services by id, with the status of their instances."""
    services, after = api.services.listing(limit=limit, after=cursor)
    return _json(f'{{"items":[{services}],"next":{json.dumps(after)}}}')


@router.get("/{id}", response_model=ServiceStatus | RefusedService)
def show(api: Api, id: ServiceId) -> Response:
    """Show a service with the status of its instances and their traffic."""
    found = {each: traffic._asdict() for each, traffic in api.traffic.read().items() if each.startswith(f"{id}@")}
    shown = json.dumps({"traffic": found, "inference_url": api.inference_url})
    return _json(f"{api.services.status(id)[:-1]},{shown[1:]}")


RevisionNumber = Annotated[int, Path(ge=1, description="The number of the revision.")]


class Revision(BaseModel):
    revision: int
    changed_at: AwareDatetime | None
    changed_by: str | None
    current: bool
    changed: list[str]
    """The fields that differ from the revision before; empty for the oldest revision."""
    spec: dict[str, Any]


class Revisions(BaseModel):
    items: list[Revision]


@router.get("/{id}/revisions")
def history(api: Api, id: ServiceId) -> Revisions:
    """List the last ten revisions of a service, newest first."""
    current, kept = api.services.get(id).spec, [each.spec for each in api.services.revisions(id)]
    before = [*kept[1:], None]
    return Revisions(items=[_revision(each, current, older) for each, older in zip(kept, before, strict=True)])


@router.get("/{id}/revisions/{revision}")
def show_revision(api: Api, id: ServiceId, revision: RevisionNumber) -> Service:
    """Show a service as it was at an earlier revision."""
    return earlier_revision(api.services.revisions(id), api.services.get(id).spec, revision)


def _revision(service: Service, current: Service, older: Service | None) -> Revision:
    return Revision(
        revision=service.revision,
        changed_at=service.changed_at,
        changed_by=service.changed_by,
        current=service.version == current.version,
        changed=changed_fields(older.content, service.content) if older else [],
        spec=service.content,
    )


@router.delete("/{id}", status_code=204)
def remove(api: Api, id: ServiceId) -> None:
    """Remove a service without running instances."""
    api.stops.remove(id)


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")
