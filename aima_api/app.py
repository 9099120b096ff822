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
from aima_api.controllers.failover import Moving
from aima_api.controllers.host_removal import Forgetting
from aima_api.controllers.manager import Upkeep
from aima_api.controllers.unroutable import Unheard
from aima_api.dependencies import Parts
from aima_api.events.hub import EventHub
from aima_api.events.stream import EventStreams
from aima_api.http.auth import Access, check_bind
from aima_api.http.idempotency import Idempotency
from aima_api.http.metrics import Measured, Metrics
from aima_api.http.problems import Problem, answer_all_failures
from aima_api.http.sse import OpenStreams
from aima_api.http.tally import Intake, tally
from aima_api.logs.channel import LogLink
from aima_api.logs.fanout import LogFeeds
from aima_api.logs.history import LogPast
from aima_api.logs.stream import LogStreams
from aima_api.planning.placement_lock import Turns
from aima_api.planning.planner import Prospects
from aima_api.routes import catalog, health, hosts, images, logs, operations, plan, ports, service_actions, services
from aima_api.submission.batching import Together
from aima_api.submission.cancellation import CallOff
from aima_api.submission.starts import Starts
from aima_api.submission.stops import Wishes
from aima_api.submission.submitter import Submit
from aima_core.errors import BadSettings
from aima_core.queue.notifier import Doorbell
from aima_core.redis.connection import command_link, following_link
from aima_core.scheduling.pending import WhyItWaits
from aima_core.settings import ApiSettings, Settings
from aima_core.store.allocations import RoomStore
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore
from aima_core.store.services import ServiceStore

ENDS_WITHIN_SECONDS = 5
"""How long requests under way may take when the node is told to end."""
_WHERE_THE_KEY_IS = "AIMA_SIGNING_KEY: give it the key that the hosts have (`aima up` mints one)"
THREADS = 64
"""Requests waiting for Redis at once; when it is frozen, so many are answered in time, and the next wait for them."""
ROUTERS = (service_actions, services, plan, logs, operations, images, catalog, hosts, ports, health)


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
    app.state.parts, app.state.call_off, app.state.upkeep = _parts(settings, offered, signing_key, hub)
    app.add_middleware(Access, settings=settings.api)
    app.add_middleware(Measured, metrics=app.state.parts.metrics)
    answer_all_failures(app)
    for noun in ROUTERS:
        app.include_router(noun.router)
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
) -> tuple[Parts, CallOff, Upkeep]:
    url = settings.redis.url.get_secret_value()
    redis = command_link(url)
    log_link = LogLink(following_link(url))
    operations, services, hosts = OperationStore(redis), ServiceStore(redis), HostStore(redis)
    call_off = CallOff(operations, services)
    intake = Intake(redis, most=settings.api.operations)
    submit = Submit(operations, call_off=call_off, intake=intake, signing_key=signing_key)
    rooms = RoomStore(redis)
    wishes = Wishes(
        offered, submit, operations=operations, services=services, hosts=hosts, rooms=rooms, call_off=call_off
    )
    prospects = Prospects(offered, hosts=hosts, rooms=rooms)
    turns = Turns(redis)
    starts = Starts(prospects, submit, services=services, turns=turns)
    doorbell = Doorbell(redis)
    moving = Moving(
        prospects,
        submit,
        operations=operations,
        services=services,
        doorbell=doorbell,
        call_off=call_off,
        turns=turns,
    )
    open_streams = OpenStreams(most=settings.api.streams)
    logs = LogStreams(LogFeeds(log_link), LogPast(log_link, services, hosts))
    parts = Parts(
        catalog=offered,
        redis=redis,
        move_after=settings.api.move_after,
        operations=operations,
        services=services,
        hosts=hosts,
        prospects=prospects,
        starts=starts,
        start_together=Together(starts.start_each),
        wishes=wishes,
        forgetting=Forgetting(moving, hosts=hosts, operations=operations),
        idempotency=Idempotency(redis, operations),
        streams=EventStreams(hub, operations),
        logs=logs,
        open_streams=open_streams,
        metrics=Metrics(lambda: tally(redis), streams=lambda: len(open_streams), followed_logs=lambda: logs.followed),
    )
    return parts, call_off, _upkeep(settings.api, parts, moving, call_off, doorbell)


def _upkeep(api: ApiSettings, parts: Parts, moving: Moving, call_off: CallOff, doorbell: Doorbell) -> Upkeep:
    return Upkeep(
        parts.redis,
        moving,
        operations=parts.operations,
        hosts=parts.hosts,
        doorbell=doorbell,
        why_it_waits=WhyItWaits(parts.operations, hosts=parts.hosts, rooms=RoomStore(parts.redis)),
        unheard=Unheard(parts.operations, call_off, after=api.wait_for_hosts),
        lost_after=api.move_after,
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    current_default_thread_limiter().total_tokens = THREADS
    listening = asyncio.create_task(app.state.hub.run())
    app.state.upkeep.begin()
    yield
    app.state.upkeep.end()
    app.state.hub.close()
    app.state.call_off.close()
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await app.state.parts.logs.end()
    app.state.parts.redis.close()
