"""The merge rule of service specs: given options replace the stored ones, all others stay as they are."""

from __future__ import annotations

from aima_api.http.schemas import ServiceOptions
from aima_core.domain.ids import ServiceId
from aima_core.domain.services import Service
from aima_core.store.operations import now


def new_service(id: ServiceId, options: ServiceOptions) -> Service:
    return Service(id=id, created_at=now(), **_fields(options))


def merged_service(stored: Service | None, id: ServiceId, options: ServiceOptions) -> Service:
    """The stored service with these options, or a new one. Named hosts exclude a route and replicas, and vice versa."""
    if stored is None:
        return new_service(id, options)
    fields = _fields(options)
    if "hosts" in fields:
        fields = {"replicas": 1, **fields, "route": None}
    elif "replicas" in fields or "route" in fields:
        fields["hosts"] = ()
    return stored.model_copy(update=fields)


def _fields(options: ServiceOptions) -> dict[str, object]:
    return {name: value for name, value in options.given().items() if name != "id"}
