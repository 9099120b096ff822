"""Routes of documents: plan, apply and export."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from aima_api.access.scopes import Scope
from aima_api.dependencies import Access, Api, IdempotencyKey
from aima_api.http.schemas import ApplyOptions
from aima_api.routes.service_actions import Submitted
from aima_api.submission.documents import ApplyRequest, Changes
from aima_core.domain.ids import ServiceId
from aima_core.errors import Failure
from aima_core.trust.orders import Mandate

router = APIRouter(prefix="/v1", tags=["documents"])

MOST_IN_THE_AUDIT = 200
"""Characters of the names of what an apply is about."""
ExportedServices = Annotated[list[ServiceId], Query(max_length=1000, description="Only these; repeat for several.")]


class Export(BaseModel):
    documents: list[dict[str, Any]]
    """As `apply` takes them."""
    failures: list[Failure]
    """Of services that have none, since their stored spec does not verify."""


@router.post("/apply:plan")
def plan_documents(api: Api, access: Access, body: ApplyOptions) -> Changes:
    """Preview what the documents would do, each with the steps of its instances."""
    return api.documents.plan(_request(access, body))


@router.post("/apply", status_code=202)
def apply(api: Api, access: Access, body: ApplyOptions, idempotency_key: IdempotencyKey = None) -> Submitted:
    """Apply documents: all are checked before anything is written. Idempotent.

    A pruned service is stopped, and removed at once if it runs nowhere; remove the others after their stops.
    """
    access.target = ", ".join(each.subject for each in body.documents)[:MOST_IN_THE_AUDIT]
    if body.prune:
        access.caller.require(Scope.ADMIN)
    submit = partial(api.resolving, partial(api.documents.apply, _request(access, body)))
    return Submitted(operations=api.idempotency.once(idempotency_key, "apply", body, submit))


@router.get("/export")
def export(api: Api, service: ExportedServices = []) -> Export:  # noqa: B006  # the framework's way
    """Export services, or everything, as documents."""
    found = api.documents.export(service or None)
    return Export(documents=[each.plain() for each in found.documents], failures=found.failures)


def _request(access: Access, body: ApplyOptions) -> ApplyRequest:
    mandate = Mandate(access.caller.name)
    return ApplyRequest(body.documents, mandate, owner=body.owner, prune=body.prune, expected=body.expected)
