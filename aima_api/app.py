"""The composition root of an API node. It keeps nothing: any number of them may stand behind a balancer."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from pydantic import SecretStr

from aima_api.catalog.loader import Catalog, load_catalog
from aima_api.controllers.failover import Failover
from aima_api.controllers.host_removal import HostRemoval
from aima_api.controllers.manager import ControllerManager
from aima_api.controllers.unroutable import UnroutableOperations
from aima_api.dependencies import Dependencies
from aima_api.events.hub import EventHub
from aima_api.events.stream import EventStreams
from aima_api.http.auth import Access, check_bind
from aima_api.http.idempotency import Idempotency
from aima_api.http.metrics import BacklogLimit, Measured, Metrics, redis_stats
from aima_api.http.problems import Problem, answer_all_failures
from aima_api.http.sse import OpenStreams
from aima_api.logs.channel import LogChannelClient
from aima_api.logs.fanout import LogFanout
from aima_api.logs.history import LogHistory
from aima_api.logs.stream import LogStreams
from aima_api.planning.placement import PlacementLocks
from aima_api.planning.planner import StartPlanner
from aima_api.routes import catalog, health, hosts, images, logs, operations, service_actions, services
from aima_api.submission.cancellation import Cancellations
from aima_api.submission.starts import Batcher, StartSubmission
from aima_api.submission.stops import StopsAndPulls
from aima_api.submission.submitter import Submitter
from aima_core.errors import BadSettings
from aima_core.queue.notifier import Notifier
from aima_core.redis.connection import command_link, following_link
from aima_core.scheduling.pending import PendingReasons
from aima_core.settings import ApiSettings, Settings
from aima_core.store.allocations import AllocationStore
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore
from aima_core.store.services import ServiceStore

ENDS_WITHIN_SECONDS = 5
"""How long requests under way may take when the node is told to end."""
_WHERE_THE_KEY_IS = "AIMA_SIGNING_KEY: give it the key that the hosts have (`aima up` mints one)"
THREADS = 64
"""Requests waiting for Redis at once; when it is frozen, so many are answered in time, and the next wait for them."""
ROUTERS = (
    service_actions.router,
    services.router,
    logs.router,
    operations.router,
    images.router,
    catalog.router,
    hosts.router,
    hosts.port_router,
    health.router,
)


def create_app(settings: Settings) -> FastAPI:
    """Raises BadSettings, UnsafeBind and CatalogMistake."""
    check_bind(settings.api)
    signing_key = _signing_key(settings)
    offered = load_catalog(*([settings.api.catalog] if settings.api.catalog else []))
    url = settings.redis.url.get_secret_value()
    hub = EventHub(following_link(url))
    app = FastAPI(
        title="AIMA",
        docs_url=None,  # the page would load its scripts from elsewhere
        redoc_url=None,
        lifespan=_lifespan,
        responses={"default": {"model": Problem, "description": "Why it was not done (RFC 9457)"}},
    )
    app.state.hub = hub
    app.state.parts, app.state.cancellations, app.state.controllers = _parts(settings, offered, signing_key, hub)
    app.add_middleware(Access, settings=settings.api)
    app.add_middleware(Measured, metrics=app.state.parts.metrics)
    answer_all_failures(app)
    for router in ROUTERS:
        app.include_router(router)
    return app


class Server(uvicorn.Server):
    """Ends its event streams as soon as it is told to end; they would hold it open otherwise."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self.hub: EventHub = app.state.hub
        self.logs: LogStreams = app.state.parts.logs
        self.open_streams: OpenStreams = app.state.parts.open_streams
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.api.bind,
                port=settings.api.port,
                access_log=False,
                server_header=False,
                log_level="warning",
                timeout_graceful_shutdown=ENDS_WITHIN_SECONDS,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.hub.close()
        self.logs.close()
        await super().shutdown(sockets)


def serve(settings: Settings) -> None:
    """Serve until a signal. Raises as `create_app` does."""
    server = Server(create_app(settings), settings)
    gc.freeze()  # what is there now stays: looking through it again and again would cost requests milliseconds
    server.run()


def _signing_key(settings: Settings) -> SecretStr:
    if settings.signing_key is None or not settings.signing_key.get_secret_value():
        raise BadSettings(
            detail="there is no signing key, and hosts carry out signed commands only.", where=_WHERE_THE_KEY_IS
        )
    return settings.signing_key


def _parts(
    settings: Settings, offered: Catalog, signing_key: SecretStr, hub: EventHub
) -> tuple[Dependencies, Cancellations, ControllerManager]:
    url = settings.redis.url.get_secret_value()
    redis = command_link(url)
    log_link = LogChannelClient(following_link(url))
    operations, services, hosts = OperationStore(redis), ServiceStore(redis), HostStore(redis)
    cancellations = Cancellations(operations, services)
    intake = BacklogLimit(redis, most=settings.api.operations)
    submit = Submitter(operations, cancellations=cancellations, intake=intake, signing_key=signing_key)
    allocations = AllocationStore(redis)
    wishes = StopsAndPulls(
        offered,
        submit,
        operations=operations,
        services=services,
        hosts=hosts,
        allocations=allocations,
        cancellations=cancellations,
    )
    planner = StartPlanner(offered, hosts=hosts, allocations=allocations)
    locks = PlacementLocks(redis)
    starts = StartSubmission(planner, submit, services=services, locks=locks)
    notifier = Notifier(redis)
    failover = Failover(
        planner,
        submit,
        operations=operations,
        services=services,
        notifier=notifier,
        cancellations=cancellations,
        locks=locks,
    )
    open_streams = OpenStreams(most=settings.api.streams)
    logs = LogStreams(LogFanout(log_link), LogHistory(log_link, services, hosts))
    parts = Dependencies(
        catalog=offered,
        redis=redis,
        move_after=settings.api.move_after,
        operations=operations,
        services=services,
        hosts=hosts,
        planner=planner,
        starts=starts,
        start_together=Batcher(starts.start_each),
        wishes=wishes,
        host_removal=HostRemoval(failover, hosts=hosts, operations=operations),
        idempotency=Idempotency(redis, operations),
        streams=EventStreams(hub, operations),
        logs=logs,
        open_streams=open_streams,
        metrics=Metrics(
            lambda: redis_stats(redis), streams=lambda: len(open_streams), followed_logs=lambda: logs.followed
        ),
    )
    return parts, cancellations, _controllers(settings.api, parts, failover, cancellations, notifier)


def _controllers(
    api: ApiSettings, parts: Dependencies, failover: Failover, cancellations: Cancellations, notifier: Notifier
) -> ControllerManager:
    return ControllerManager(
        parts.redis,
        failover,
        operations=parts.operations,
        hosts=parts.hosts,
        notifier=notifier,
        pending_reasons=PendingReasons(parts.operations, hosts=parts.hosts, allocations=AllocationStore(parts.redis)),
        unroutable=UnroutableOperations(parts.operations, cancellations, after=api.wait_for_hosts),
        lost_after=api.move_after,
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    current_default_thread_limiter().total_tokens = THREADS
    listening = asyncio.create_task(app.state.hub.run())
    app.state.controllers.start()
    yield
    app.state.controllers.stop()
    app.state.hub.close()
    app.state.cancellations.close()
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await app.state.parts.logs.disconnect()
    app.state.parts.redis.close()
