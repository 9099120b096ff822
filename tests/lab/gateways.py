"""A real gateway in a thread, and instances of scripted engines in Redis as their workers record them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from threading import Thread
from typing import Any, Protocol

import httpx2
from lab.commands import SIGNING_KEY
from lab.parts import eventually

from aima_api.gateway.app import GatewayServer
from aima_core.domain.ids import InstanceId, OperationId
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.redis import keys
from aima_core.redis.connection import RedisClient
from aima_core.settings import Settings
from aima_core.store.operations import now
from aima_core.store.services import ServiceStore
from aima_core.system.engine_connections import EngineConnection

STARTS_WITHIN = timedelta(seconds=60)
EVERYTHING = (
    "chat",
    "completions",
    "responses",
    "messages",
    "embeddings",
    "rerank",
    "speech",
    "transcriptions",
    "translations",
)

STARTS_WITHIN = timedelta(seconds=60)


STARTS_WITHIN = timedelta(seconds=60)


class Reachable(Protocol):
    @property
    def url(self) -> str: ...


class Fleet:
    """Instances as hosts report them."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._services = ServiceStore(redis)
        self._fence = 0

    def serves(self, engine: Reachable, instance: str = "svc-tiny-dial@alpha", **having: Any) -> None:
        """Records a ready instance of the engine."""
        self._record(instance, Desired.RUNNING, InstanceState.READY, endpoint=engine.url, **having)

    def starts(self, instance: str) -> None:
        self._record(instance, Desired.RUNNING, InstanceState.STARTING)

    def stops(self, instance: str) -> None:
        self._record(instance, Desired.STOPPED, InstanceState.STOPPING)

    def beats(self, host: str) -> None:
        seconds, _ = self._redis.time()
        self._redis.zadd(keys.HOSTS_SEEN, {host: float(seconds)})

    def _record(self, id: str, desired: Desired, state: InstanceState, **having: Any) -> None:
        self._fence += 1
        having = {"serves": EVERYTHING, **having}
        instance = Instance(id=InstanceId(id), desired=desired, fence=self._fence, state=state, since=now(), **having)
        self._services.set_desired(instance)
        self._services.update_status(instance)
        self.beats(instance.host)
        self._redis.publish(keys.EVENTS, f'{OperationId.new()} 1 1-1 {{"phase":"ready"}}')


@dataclass(frozen=True)
class RunningGateway:
    url: str
    server: GatewayServer
    client: httpx2.Client

    def knows(self, *models: str) -> None:
        assert eventually(lambda: set(models) <= set(self.server.table.names())), self.server.table.names()

    @property
    def engine_connections(self) -> list[EngineConnection]:
        engines = self.server.proxy._engines
        return list(engines._open) if engines is not None else []

    @property
    def in_flight(self) -> int:
        return sum(backend.in_flight for backend in self.server.table.backends)


@contextmanager
def gateway(redis_url: str, *, keys: tuple[str, ...] = (), **settings: Any) -> Iterator[RunningGateway]:
    """`keys` are those in `api.keys`; with one, the gateway asks for keys."""
    given = {"redis": {"url": redis_url}, "gateway": {"port": 0, **settings}, "api": {"keys": keys}}
    server = GatewayServer(Settings.model_validate({**given, "signing_key": SIGNING_KEY}))
    thread = Thread(target=server.run, name="gateway")
    thread.start()
    assert eventually(lambda: server.started or not thread.is_alive(), within=STARTS_WITHIN)
    address, port = server.servers[0].sockets[0].getsockname()[:2]
    url = f"{'https' if settings.get('tls') else 'http'}://{address}:{port}"
    try:
        verify = bool(settings.get("tls"))  # a context costs 50 ms
        with httpx2.Client(base_url=url, timeout=30, verify=verify) as client:
            yield RunningGateway(url, server, client)
    finally:
        server.should_exit = True
        thread.join(timeout=40)
    assert not thread.is_alive(), "the gateway did not end"
