"""The composition root of a gateway: it holds no state that matters, so any number may serve behind a load balancer."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from pydantic import SecretStr

from aima_api.access.aliases import AliasStore
from aima_api.access.keys import KeyCache, KeyStore
from aima_api.access.quotas import Quotas
from aima_api.events.hub import EventHub
from aima_api.gateway.balancer import Balancer
from aima_api.gateway.certification import keep_certified, tls_to_hosts
from aima_api.gateway.errors import error_answer
from aima_api.gateway.exchange import Exchanges
from aima_api.gateway.front import ACCESS_EVENT, ACCESS_FIELDS, GatewayApp
from aima_api.gateway.metrics import GatewayMetrics
from aima_api.gateway.proxy import Proxy
from aima_api.gateway.reach import Reach
from aima_api.gateway.table import Table, TableKeeper
from aima_api.http.callers import KeyLookup
from aima_api.http.connections import raise_descriptor_limit
from aima_api.http.server import LimitedServer, redis_state
from aima_api.http.tls import check_transport
from aima_core.errors import AimaError
from aima_core.logs.access import FLUSH_INTERVAL, AccessLog
from aima_core.redis.connection import command_link, following_link
from aima_core.settings import Settings
from aima_core.store.traffic import Traffic, TrafficStore
from aima_core.system.loopback import find_port, loopback_id
from aima_core.system.state_dir import secret
from aima_core.trust.gateways import TokenSigner
from aima_core.trust.keys import SigningKey, key_ring

BODY_TIMEOUT = timedelta(minutes=2)
"""For a client's body, beside the time for its headers."""
DRAIN_TIMEOUT = timedelta(seconds=30)
"""For streams in progress when the gateway receives a signal."""
TRAFFIC_INTERVAL = timedelta(seconds=2)
MINUTE = timedelta(minutes=1)
DISPATCH_INTERVAL = timedelta(milliseconds=100)
"""After which a waiting request notices that a cool-down has ended."""


class GatewayServer(LimitedServer):
    def __init__(self, settings: Settings) -> None:
        """Raises BadSettings."""
        check_transport(settings.gateway, "gateway")
        self._redis_url = settings.redis.url.get_secret_value()
        self._redis = command_link(self._redis_url)
        self._hub = EventHub(following_link(self._redis_url))
        gateway = settings.gateway
        self._settings = gateway
        own_key = SigningKey(SecretStr(secret(settings.state_dir.expanduser() / "gateway.key")))
        self._tokens = TokenSigner(own_key, now=lambda: datetime.now(UTC)) if gateway.api else None
        self._reach = Reach(self._tokens, loopback=loopback_id())
        self.table = Table(self._reach.target_of, keep_for=gateway.keys_for)
        self.balancer = Balancer(running=gateway.running, waiting=gateway.waiting, wait=gateway.wait)
        clock = self.balancer.clock
        self.exchanges = Exchanges(clock)
        metrics = GatewayMetrics(backends=lambda: self.table.backends, waiting=lambda: self.balancer.waiting)
        self.proxy = Proxy(self.table, self.balancer, metrics, gateway, tls=tls_to_hosts(gateway))
        trusted = key_ring(settings)
        aliases = AliasStore(self._redis, trusted)
        self._keeper = TableKeeper(self.table, self._hub, self._redis, aliases, changed=self.balancer.dispatch)
        self._keys = KeyLookup(KeyCache(KeyStore(self._redis, trusted), keys_for=gateway.keys_for))
        self._access_log = AccessLog(ACCESS_EVENT, ACCESS_FIELDS)
        app = GatewayApp(
            settings,
            table=self.table,
            proxy=self.proxy,
            exchanges=self.exchanges,
            metrics=metrics,
            keys=self._keys,
            quotas=Quotas(clock=clock),
            clock=clock,
            access_log=self._access_log,
            redis_answers=lambda: self._keeper.redis_answers,
        )
        self._tasks: list[asyncio.Task[None]] = []
        super().__init__(
            app,
            gateway,
            metrics.connections,
            body_timeout=BODY_TIMEOUT,
            shutdown_timeout=DRAIN_TIMEOUT,
            answer=error_answer,
            lifespan="off",
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.proxy.open()
        await self._keeper.read()
        loops = [self._hub.run(), self._keeper.run(), self.exchanges.sweep(), self._dispatch()]
        loops += [self.exchanges.watch_keys(self._keys), self._publish_traffic(), self._write_log()]
        if self._tokens is not None:
            loops.append(self._keep_certified(self._tokens))
        self._tasks = [asyncio.create_task(loop) for loop in loops]
        await super().startup(sockets)

    async def _keep_certified(self, tokens: TokenSigner) -> None:
        await self._reach.needs_tokens.wait()
        await keep_certified(tokens, self._settings)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.proxy.close()
        self._access_log.flush()
        self._redis.close()

    def describe(self) -> str:
        served = ", ".join(self.table.names()) or "none"
        return f"models: {served}; {redis_state(self._redis, self._redis_url)}"

    async def _publish_traffic(self) -> None:
        """Until cancelled."""
        store, name = TrafficStore(self._redis), f"{socket.gethostname()}:{self.config.port}"
        samples = deque[dict[str, int]](maxlen=round(MINUTE / TRAFFIC_INTERVAL) + 1)
        while True:
            await asyncio.sleep(TRAFFIC_INTERVAL.total_seconds())
            backends = self.table.backends
            samples.append({each.instance: each.started for each in backends})
            traffic = {
                each.instance: Traffic(each.in_flight, max(0, each.started - samples[0].get(each.instance, 0)))
                for each in backends
            }
            with suppress(AimaError):  # for people only; the table's outage is logged
                await asyncio.to_thread(store.publish, name, traffic)

    async def _write_log(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_INTERVAL.total_seconds())
            self._access_log.flush()

    async def _dispatch(self) -> None:
        while True:
            await asyncio.sleep(DISPATCH_INTERVAL.total_seconds())
            self.balancer.dispatch()


def serve(settings: Settings) -> None:
    """Serves until a signal. Raises ApiPortTaken, BadSettings."""
    raise_descriptor_limit()
    find_port(settings.gateway.bind, settings.gateway.port, what="gateway", section="gateway")
    server = GatewayServer(settings)
    gc.freeze()  # these objects live as long as the process: scanning them again would cost requests milliseconds
    server.run()
