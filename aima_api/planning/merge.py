"""The one merge rule of specs, used by starts, creates, patches, plans and rollbacks: a JSON merge patch (RFC 7396).

An absent field stays as it is, null removes a field or one key of a map, maps are merged per key, and lists are
replaced. Only fields that exclude each other are named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from aima_api.http.schemas import ServiceOptions
from aima_core.domain.ids import ServiceId
from aima_core.domain.services import Service
from aima_core.errors import InvalidRequest, UnknownRevision
from aima_core.store.operations import now
from aima_core.trust.records import SignedService

_LOCAL = "(local)"


def merged_service(stored: Service | None, id: ServiceId, options: ServiceOptions, *, caller: str = _LOCAL) -> Service:
    """The service as changed by the options; `stored` itself if they change nothing. Raises InvalidRequest."""
    changes = _exclusive(options.changes())
    if stored and not changes:
        return stored
    return revised(stored, id, merge_patch(stored.content if stored else {}, changes), caller=caller)


def revised(
    stored: Service | None, id: ServiceId, spec: Mapping[str, Any], *, caller: str = _LOCAL, owner: str | None = None
) -> Service:
    """The next revision of a service, with this spec; `stored` itself if that is its spec. Raises InvalidRequest.

    The owner stays unless another is given.
    """
    at, owner = now(), owner or (stored.owner if stored else None)
    known = {"created_at": stored.created_at, "revision": stored.revision + 1} if stored else {"created_at": at}
    try:
        made = {"id": id, "changed_at": at, "changed_by": caller, "owner": owner}
        service = Service.model_validate({**spec, **known, **made})
    except ValidationError as wrong:
        first = wrong.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InvalidRequest(
            detail=f"The changed spec is invalid: {field}: {first['msg']}.", remedy=f"Correct or unset {field}."
        ) from wrong
    same = stored is not None and (stored.content, stored.owner) == (service.content, service.owner)
    return stored if stored and same else service


def earlier_revision(kept: Sequence[SignedService], current: Service, number: int | None) -> Service:
    """The revision with this number, or the one before the current. Raises UnknownRevision."""
    for each in kept:
        if each.spec.revision == number or (number is None and each.spec.version < current.version):
            return each.spec
    raise UnknownRevision(service=current.id, revision=number or f"before {current.revision}")


def merge_patch(target: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """RFC 7396, on JSON objects."""
    merged = dict(target)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping):
            before = merged.get(name)
            merged[name] = merge_patch(before if isinstance(before, Mapping) else {}, value)
        else:
            merged[name] = value
    return merged


class Difference(NamedTuple):
    field: str
    """Such as `port` and `arguments.max-model-len`."""
    before: Any
    """None if it is absent."""
    after: Any


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[Difference]:
    """The fields in which two specs differ."""
    found: list[Difference] = []
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        if isinstance(one or {}, Mapping) and isinstance(other or {}, Mapping) and (one or other):
            found += differences(one or {}, other or {}, f"{prefix}{name}.")
        elif one != other:
            found.append(Difference(f"{prefix}{name}", one, other))
    return found


def changed_fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [each.field for each in differences(before, after)]


def _exclusive(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Named hosts exclude a route and replicas, and vice versa."""
    if changes.get("hosts"):
        return {"replicas": None, **changes, "route": None}
    if changes.get("replicas") is not None or changes.get("route") is not None:
        return {**changes, "hosts": None}
    return dict(changes)
