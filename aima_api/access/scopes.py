"""Scopes: what a caller may do, and the one table of the scope that each route requires.

A method and path without a row are refused to every caller but an admin, so that a route whose row was forgotten is
not open.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from aima_core.errors import InsufficientScope


class Scope(StrEnum):
    READ = "read"
    """Listings, records, events, logs and metrics."""
    OPERATE = "operate"
    """Starts, stops, pulls, cancels, drains; includes `read`."""
    ADMIN = "admin"
    """Keys, the audit log, removals, and images that the catalog does not name; includes `operate`."""
    INFER = "infer"
    """Requests to models through a gateway; included in no other scope."""
    GATEWAY = "gateway"
    """Certificates for the key of a gateway, which then reaches all engines; included in `admin`."""


_INCLUDED = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.OPERATE: frozenset({Scope.READ, Scope.OPERATE}),
    Scope.ADMIN: frozenset({Scope.READ, Scope.OPERATE, Scope.ADMIN, Scope.GATEWAY}),
    Scope.INFER: frozenset({Scope.INFER}),
    Scope.GATEWAY: frozenset({Scope.GATEWAY}),
}


@dataclass(frozen=True)
class Caller:
    """Who sends a request."""

    name: str
    """Of the key. No created key has a name with a bracket, which the other callers' names have."""
    id: str
    """Public; a key created again under an earlier name has another."""
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        return any(scope in _INCLUDED[each] for each in self.scopes)

    def require(self, scope: Scope) -> None:
        """Raises InsufficientScope."""
        if not self.may(scope):
            raise InsufficientScope(key=self.name, scope=scope)


LOCAL = Caller("(local)", "(local)", frozenset({Scope.ADMIN}))
"""A process of this machine, without a key, on an API node that listens on loopback and has no keys of its own."""


@dataclass
class RequestAccess:
    """A request's caller, and what the request is about where its path does not name it; for the audit log."""

    caller: Caller
    target: str | None = None


OPEN_PATHS = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json"})
"""Polled by load balancers, or opened in a browser, which have no key; the description of the API names no host."""
SCOPES: Mapping[tuple[str, str], Scope] = {
    ("GET", "/metrics"): Scope.READ,
    ("GET", "/v1/catalog"): Scope.READ,
    ("POST", "/v1/catalog:reload"): Scope.OPERATE,
    ("GET", "/v1/engines"): Scope.READ,
    ("GET", "/v1/engines/{name}"): Scope.READ,
    ("GET", "/v1/models"): Scope.READ,
    ("GET", "/v1/models/{name}"): Scope.READ,
    ("GET", "/v1/models:stored"): Scope.READ,
    ("POST", "/v1/models/{name}:pull"): Scope.OPERATE,
    ("POST", "/v1/models/{name}:remove"): Scope.ADMIN,
    ("POST", "/v1/models/{name}:pin"): Scope.OPERATE,
    ("POST", "/v1/models/{name}:unpin"): Scope.OPERATE,
    ("POST", "/v1/models:prune"): Scope.ADMIN,
    ("GET", "/v1/hosts:usage"): Scope.READ,
    ("GET", "/v1/profiles"): Scope.READ,
    ("GET", "/v1/profiles/{name}"): Scope.READ,
    ("POST", "/v1/profiles/{name}:plan"): Scope.READ,
    ("POST", "/v1/profiles/{name}:apply"): Scope.OPERATE,
    ("GET", "/v1/hosts"): Scope.READ,
    ("GET", "/v1/hosts/{name}"): Scope.READ,
    ("DELETE", "/v1/hosts/{name}"): Scope.ADMIN,
    ("POST", "/v1/hosts/{name}:drain"): Scope.OPERATE,
    ("POST", "/v1/hosts/{name}:resume"): Scope.OPERATE,
    ("GET", "/v1/ports"): Scope.READ,
    ("GET", "/v1/images"): Scope.READ,
    ("POST", "/v1/images:pull"): Scope.OPERATE,
    ("POST", "/v1/images:remove"): Scope.ADMIN,
    ("GET", "/v1/operations"): Scope.READ,
    ("GET", "/v1/operations/{id}"): Scope.READ,
    ("GET", "/v1/operations/{id}/events"): Scope.READ,
    ("POST", "/v1/operations/{id}:cancel"): Scope.OPERATE,
    ("GET", "/v1/events"): Scope.READ,
    ("GET", "/v1/events/recent"): Scope.READ,
    ("GET", "/v1/services"): Scope.READ,
    ("POST", "/v1/services"): Scope.OPERATE,
    ("GET", "/v1/services/{id}"): Scope.READ,
    ("PATCH", "/v1/services/{id}"): Scope.OPERATE,
    ("DELETE", "/v1/services/{id}"): Scope.ADMIN,
    ("GET", "/v1/services/{id}/logs"): Scope.READ,
    ("POST", "/v1/services/{id}:start"): Scope.OPERATE,
    ("POST", "/v1/services/{id}:stop"): Scope.OPERATE,
    ("POST", "/v1/services/{id}:restart"): Scope.OPERATE,
    ("POST", "/v1/services/{id}:rollback"): Scope.OPERATE,
    ("POST", "/v1/services/{id}:plan"): Scope.READ,
    ("POST", "/v1/services:plan"): Scope.READ,
    ("GET", "/v1/services/{id}/revisions"): Scope.READ,
    ("GET", "/v1/services/{id}/revisions/{revision}"): Scope.READ,
    ("POST", "/v1/apply"): Scope.OPERATE,
    ("POST", "/v1/apply:plan"): Scope.READ,
    ("GET", "/v1/export"): Scope.READ,
    ("GET", "/v1/aliases"): Scope.READ,
    ("GET", "/v1/aliases/{name:path}"): Scope.READ,
    ("PUT", "/v1/aliases/{name:path}"): Scope.OPERATE,
    ("DELETE", "/v1/aliases/{name:path}"): Scope.OPERATE,
    ("GET", "/v1/keys"): Scope.ADMIN,
    ("POST", "/v1/keys"): Scope.ADMIN,
    ("DELETE", "/v1/keys/{name}"): Scope.ADMIN,
    ("GET", "/v1/audit"): Scope.ADMIN,
    ("POST", "/v1/gateways"): Scope.GATEWAY,
}
"""Method and path template, as the router has them; HEAD requires what GET does."""
_EXACT = {row: scope for row, scope in SCOPES.items() if "{" not in row[1]}
_PATTERNS = [
    (
        method,
        re.compile(re.sub(r"\\{\w+(:path)?\\}", lambda part: ".+" if part[1] else "[^/]+", re.escape(path))),
        scope,
    )
    for (method, path), scope in SCOPES.items()
    if "{" in path
]
_STRICTEST = [Scope.READ, Scope.OPERATE, Scope.ADMIN]


def required_scope(method: str, path: str) -> Scope | None:
    """The scope that a request requires, the strictest of the rows that match; None if the table has no row for it."""
    if method == "OPTIONS":
        return Scope.READ
    method = "GET" if method == "HEAD" else method
    if exact := _EXACT.get((method, path)):
        return exact
    matching = [scope for its, pattern, scope in _PATTERNS if its == method and pattern.fullmatch(path)]
    return max(matching, key=_STRICTEST.index, default=None)
