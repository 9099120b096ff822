"""The composition root of an API node: stateless, so any number of nodes may serve behind a load balancer."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI

from aima_api.access.aliases import AliasStore
from aima_api.access.audit import AuditLog
from aima_api.access.keys import KeyCache, KeyStore
from aima_api.access.limits import TokenBuckets
from aima_api.catalog.live import LiveCatalog
from aima_api.controllers.certification import HostCertifier
from aima_api.controllers.failover import Failover
from aima_api.controllers.loop import ControllerLoop
from aima_api.dependencies import Dependencies
from aima_api.events.hub import EventHub
from aima_api.events.stream import EventStreams
from aima_api.http.auth import AuthMiddleware, Guard, check_bind
from aima_api.http.connections import raise_descriptor_limit
from aima_api.http.idempotency import Idempotency
from aima_api.http.metrics import Metrics, MetricsMiddleware
from aima_api.http.openapi import complete_openapi
from aima_api.http.openapi import router as docs_router
from aima_api.http.problems import install_error_handlers
from aima_api.http.resources import ResourceMiddleware
from aima_api.http.server import LimitedServer, redis_state
from aima_api.http.sse import OpenStreams
from aima_api.http.tls import check_transport
from aima_api.logs.channel import LogChannelClient
from aima_api.logs.fanout import LogFanout
from aima_api.logs.history import LogHistory
from aima_api.logs.stream import LogStreams
from aima_api.models.manifests import ManifestStore
from aima_api.models.resolution import ModelResolver
from aima_api.planning.placement import PlacementLocks
from aima_api.planning.planner import StartPlanner
from aima_api.routes import (
    access,
    aliases,
    catalog,
    documents,
    gateways,
    health,
    hosts,
    images,
    logs,
    operations,
    profiles,
    service_actions,
    services,
)
from aima_api.submission.aliases import AliasDocuments, AliasSubmission
from aima_api.submission.cancellation import Cancellations
from aima_api.submission.document_kinds import HostDocuments, ServiceDocuments
from aima_api.submission.documents import Documents
from aima_api.submission.starts import Batcher, StartSubmission
from aima_api.submission.stops import Stops
from aima_api.submission.submitter import BacklogLimit, Submitter
from aima_core.domain.units import counted
from aima_core.errors import BadSettings
from aima_core.queue.notifier import Notifier
from aima_core.redis.connection import command_link, following_link
from aima_core.settings import Settings
from aima_core.store.allocations import AllocationStore
from aima_core.store.claims import ClaimStore
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore
from aima_core.store.services import ServiceStore
from aima_core.store.traffic import TrafficStore
from aima_core.store.unreadable import UnreadableRecords
from aima_core.system.loopback import find_port
from aima_core.trust.keys import SigningKey, key_ring

PASSES_END_WITHIN = timedelta(seconds=1)
"""At a shutdown: a pass that goes on after the connections to Redis are closed opens new ones."""
THREADS = 64
"""Threads for requests that wait for Redis. If it freezes, these fail at its timeout and queued requests follow."""
YOUNG_OBJECTS = 50_000
"""Between two garbage collections: with the 700 of Python, those of a large request take a tenth of its time."""
ROUTERS = (
    service_actions.router,
    services.router,
    documents.router,
    logs.router,
    operations.router,
    images.router,
    catalog.router,
    profiles.router,
    hosts.usage_router,
    hosts.router,
    hosts.port_router,
    health.router,
    access.router,
    gateways.router,
    aliases.router,
    docs_router,
)


def create_app(settings: Settings) -> FastAPI:
    """Raises BadSettings, UnsafeBind and CatalogMistake."""
    check_bind(settings.api)
    check_transport(settings.api)
    signing_key = _signing_key(settings)
    app = FastAPI(
        title="AIMA",
        docs_url=None,  # the framework's page loads its scripts from elsewhere
        redoc_url=None,
        lifespan=_lifespan,
    )
    _connect(app, settings, signing_key)
    # Not `include_router`, which builds every route again at the first request, and looks each request up twice.
    app.routes.extend(route for router in ROUTERS for route in router.routes)
    app.add_middleware(ResourceMiddleware, routes=app.routes)
    app.add_middleware(AuthMiddleware, settings=settings.api, guard=_guard(app.state.dependencies, settings))
    app.add_middleware(MetricsMiddleware, metrics=app.state.dependencies.metrics)
    install_error_handlers(app)
    complete_openapi(app)
    return app


class Server(LimitedServer):
    """Closes event streams at the first signal; otherwise they would block the shutdown until its timeout."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self.hub: EventHub = app.state.hub
        self.logs: LogFanout = app.state.dependencies.logs.fanout
        self.open_streams: OpenStreams = app.state.dependencies.open_streams
        self._dependencies: Dependencies = app.state.dependencies
        self._redis_url = settings.redis.url.get_secret_value()
        super().__init__(app, settings.api, self._dependencies.metrics.connections)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.hub.close()
        self.logs.close()
        await super().shutdown(sockets)

    def describe(self) -> str:
        offered = self._dependencies.catalog
        catalog = f"{counted(len(offered.engines), 'engine')}, {counted(len(offered.models), 'model')}"
        return f"catalog: {catalog}; {redis_state(self._dependencies.redis, self._redis_url)}"


def serve(settings: Settings) -> None:
    """Serves until a signal; SIGHUP reloads the catalog. Raises ApiPortTaken, and as `create_app` does."""
    raise_descriptor_limit()
    find_port(settings.api.bind, settings.api.port)
    app = create_app(settings)
    server = Server(app, settings)
    if not sys.stderr.isatty():  # there, it means that the terminal was closed
        signal.signal(signal.SIGHUP, lambda *_: app.state.dependencies.catalogs.request_reload())
    gc.freeze()  # these objects live as long as the process: scanning them again would cost requests milliseconds
    gc.set_threshold(YOUNG_OBJECTS)
    server.run()


def _signing_key(settings: Settings) -> SigningKey:
    if settings.signing_key is None:
        raise BadSettings(
            detail="There is no signing key, and workers execute signed commands only.",
            where="AIMA_SIGNING_KEY: `openssl rand -hex 32` makes one (`aima up` mints its own)",
        )
    return SigningKey(settings.signing_key)


def _connect(app: FastAPI, settings: Settings, signing_key: SigningKey) -> None:
    """Constructs every dependency; the app's state holds what its lifespan starts and stops."""
    url = settings.redis.url.get_secret_value()
    redis, hub, log_channel = command_link(url), EventHub(following_link(url)), LogChannelClient(following_link(url))
    operations, services, hosts = OperationStore(redis), ServiceStore(redis, key_ring(settings)), HostStore(redis)
    locks, notifier = PlacementLocks(redis), Notifier(redis)
    catalogs, aliases = LiveCatalog(settings.api.catalog), AliasStore(redis, key_ring(settings))
    alias_submission = AliasSubmission(aliases, services, catalogs, signing_key)
    manifests = ManifestStore(redis, key_ring(settings))
    planner = StartPlanner(catalogs, hosts, AllocationStore(redis), manifests)
    cancellations = Cancellations(operations, services)
    submitter = Submitter(operations, cancellations, BacklogLimit(redis, most=settings.api.operations), signing_key)
    starts = StartSubmission(planner, submitter, services, locks)
    stops = Stops(planner, submitter, operations, services, hosts, cancellations)
    failover = Failover(
        planner, submitter, operations, ClaimStore(redis), services, hosts, notifier, cancellations, locks
    )
    streams = OpenStreams(most=settings.api.streams)
    fanout = LogFanout(log_channel)
    app.state.hub = hub
    app.state.dependencies = Dependencies(
        catalogs=catalogs,
        redis=redis,
        move_after=settings.api.move_after,
        operations=operations,
        services=services,
        hosts=hosts,
        planner=planner,
        resolver=ModelResolver(manifests, signing_key),
        starts=starts,
        batched_start=Batcher(starts.start_each),
        stops=stops,
        documents=Documents(
            {
                "service": ServiceDocuments(planner, services, starts, stops),
                "host": HostDocuments(hosts),
                "alias": AliasDocuments(alias_submission),
            }
        ),
        submitter=submitter,
        cancellations=cancellations,
        failover=failover,
        idempotency=Idempotency(redis, operations),
        streams=EventStreams(hub, operations),
        logs=LogStreams(fanout, LogHistory(log_channel, services, hosts)),
        open_streams=streams,
        metrics=Metrics(
            redis,
            streams=lambda: len(streams),
            followed_logs=lambda: fanout.followed,
            dropped=lambda: {"events": hub.dropped, "logs": log_channel.dropped},
        ),
        traffic=TrafficStore(redis),
        unreadable=UnreadableRecords(redis),
        aliases=aliases,
        alias_submission=alias_submission,
        keys=KeyStore(redis, key_ring(settings)),
        audit=AuditLog(redis),
        signing_key=signing_key,
        certified_for=settings.gateway.keys_for,
        inference_url=settings.inference_url,
    )
    app.state.controllers = ControllerLoop(
        redis,
        failover,
        HostCertifier(hosts, signing_key),
        lost_after=settings.api.move_after,
        unroutable_after=settings.api.wait_for_hosts,
    )


def _guard(dependencies: Dependencies, settings: Settings) -> Guard:
    return Guard(
        keys=KeyCache(dependencies.keys, keys_for=settings.gateway.keys_for),
        audit=dependencies.audit,
        refused=dependencies.metrics.count_refusal,
        requests=TokenBuckets(per_minute=settings.api.requests_per_minute),
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    current_default_thread_limiter().total_tokens = THREADS
    dependencies: Dependencies = app.state.dependencies
    subscription = asyncio.create_task(app.state.hub.run())
    dependencies.cancellations.loop.start()
    dependencies.audit.loop.start()
    dependencies.catalogs.loop.start()
    app.state.controllers.loop.start()
    yield
    app.state.controllers.loop.stop()
    app.state.hub.close()
    dependencies.cancellations.loop.stop()
    dependencies.catalogs.loop.stop()
    await asyncio.to_thread(dependencies.audit.close)
    for loop in (app.state.controllers.loop, dependencies.cancellations.loop):
        await asyncio.to_thread(loop.stop, within=PASSES_END_WITHIN)
    subscription.cancel()
    await asyncio.gather(subscription, return_exceptions=True)
    await dependencies.logs.fanout.disconnect()
    dependencies.redis.close()
