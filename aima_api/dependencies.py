"""The dependencies of the routes, built by the composition root."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, TypeVar

from fastapi import Depends, Header, Query, Request

from aima_api.access.aliases import Alias, AliasStore
from aima_api.access.audit import AuditLog
from aima_api.access.keys import KeyStore
from aima_api.access.scopes import RequestAccess
from aima_api.catalog.live import LiveCatalog
from aima_api.catalog.selection import Catalog
from aima_api.controllers.failover import Failover
from aima_api.events.stream import EventStreams
from aima_api.http.idempotency import Idempotency, OwnedKey
from aima_api.http.metrics import Metrics
from aima_api.http.sse import OpenStreams
from aima_api.logs.stream import LogStreams
from aima_api.models.resolution import ModelResolver
from aima_api.planning.planner import StartPlanner
from aima_api.submission.aliases import AliasSubmission
from aima_api.submission.cancellation import Cancellations
from aima_api.submission.documents import Documents
from aima_api.submission.starts import Batcher, StartRequest, StartSubmission
from aima_api.submission.stops import Stops
from aima_api.submission.submitter import Submitter
from aima_core.domain.catalog import Engine, Model, Profile
from aima_core.domain.hosts import Host
from aima_core.domain.operations import Operation
from aima_core.errors import SourceUnresolved
from aima_core.redis.interface import TextRedis
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore
from aima_core.store.services import ServiceStore
from aima_core.store.traffic import TrafficStore
from aima_core.store.unreadable import UnreadableRecords
from aima_core.trust.keys import SigningKey

_T = TypeVar("_T")


@dataclass(frozen=True)
class Dependencies:
    catalogs: LiveCatalog
    redis: TextRedis
    move_after: timedelta
    operations: OperationStore
    services: ServiceStore
    hosts: HostStore
    planner: StartPlanner
    resolver: ModelResolver
    starts: StartSubmission
    batched_start: Batcher[StartRequest, list[Operation]]
    stops: Stops
    documents: Documents
    submitter: Submitter
    cancellations: Cancellations
    failover: Failover
    idempotency: Idempotency
    streams: EventStreams
    logs: LogStreams
    open_streams: OpenStreams
    metrics: Metrics
    traffic: TrafficStore
    aliases: AliasStore
    alias_submission: AliasSubmission
    keys: KeyStore
    audit: AuditLog
    signing_key: SigningKey
    certified_for: timedelta
    inference_url: str | None
    unreadable: UnreadableRecords

    @property
    def catalog(self) -> Catalog:
        return self.catalogs.current

    def resolving(self, submit: Callable[[], _T]) -> _T:
        """Retries a start once the sources of the models that it needs are resolved; each of them once.

        Raises what `submit` and `ModelResolver.resolve` raise.
        """
        resolved = set[str]()
        while True:
            try:
                return submit()
            except SourceUnresolved as missing:
                name = str(missing.facts["model"])
                if name in resolved:
                    raise
                resolved.add(name)
                self.resolver.resolve(self.catalog.model(name))


async def _dependencies(request: Request) -> Dependencies:  # async: FastAPI runs a plain function in a thread
    dependencies = request.app.state.dependencies
    assert isinstance(dependencies, Dependencies)
    return dependencies


async def _access(request: Request) -> RequestAccess:
    access = request.state.access
    assert isinstance(access, RequestAccess)
    return access


Api = Annotated[Dependencies, Depends(_dependencies)]
Access = Annotated[RequestAccess, Depends(_access)]
"""The caller, as the middleware has authenticated it."""


GivenKey = Annotated[
    str | None,
    Header(
        description="A random text; a repetition with it within a day returns the operations of the first request.",
    ),
]


async def _owned_key(access: Access, idempotency_key: GivenKey = None) -> OwnedKey | None:
    return None if idempotency_key is None else OwnedKey(access.caller.id, idempotency_key)


IdempotencyKey = Annotated[OwnedKey | None, Depends(_owned_key)]
Limit = Annotated[int, Query(ge=1, le=1000, description="The most items of a page.")]
WholeLimit = Annotated[int | None, Query(ge=1, le=1000, description="The most items of a page; all without one.")]
Cursor = Annotated[str | None, Query(max_length=400, description="The `next` of the previous page.")]
Named = TypeVar("Named", Host, Engine, Model, Profile, Alias)


def page_of(items: Iterable[Named], *, limit: int | None, after: str | None) -> tuple[list[Named], str | None]:
    """A page by name, and the cursor of the next one."""
    left = sorted((each for each in items if each.name > (after or "")), key=lambda each: each.name)
    page = left[:limit]
    return page, page[-1].name if len(page) < len(left) else None
