"""What Prometheus reads at /metrics: how this node answers, and what there is of operations and hosts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aima_core.errors import BrokerUnavailable, TooManyOperations
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Seconds; every answer is to come within five."""
_NO_ROUTE = "none"
"""Of what was refused before it was looked where it leads, and of paths that lead nowhere."""


class Metrics:
    def __init__(
        self, redis_stats: Callable[[], RedisStats], *, streams: Callable[[], int], followed_logs: Callable[[], int]
    ):
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "aima_requests", "Requests answered.", ("method", "route", "status"), registry=self._registry
        )
        self.seconds = Histogram(
            "aima_request_seconds",
            "Until the answer begins.",
            ("method", "route"),
            buckets=BUCKETS,
            registry=self._registry,
        )
        open_streams = Gauge("aima_event_streams", "Event streams open on this node.", registry=self._registry)
        open_streams.set_function(streams)
        logs = Gauge("aima_followed_logs", "Instances whose log is followed on this node.", registry=self._registry)
        logs.set_function(followed_logs)
        ProcessCollector(registry=self._registry)
        self._registry.register(_InRedis(redis_stats))

    def read(self) -> bytes:
        """As text. While Redis is away, only what this node knows by itself; it may take seconds to find that out."""
        return generate_latest(self._registry)


class _InRedis(Collector):
    def __init__(self, redis_stats: Callable[[], RedisStats]) -> None:
        self._redis_stats = redis_stats

    def collect(self) -> Iterator[Metric]:
        try:
            found = self._redis_stats()
        except BrokerUnavailable:
            yield GaugeMetricFamily("aima_redis_up", "Whether Redis answers.", value=0)
            return
        yield GaugeMetricFamily("aima_redis_up", "Whether Redis answers.", value=1)
        operations = GaugeMetricFamily("aima_operations", "Operations that have not ended.", labels=["state"])
        operations.add_metric(["waiting for room"], found.waiting)
        operations.add_metric(["queued or running"], found.active - found.waiting)
        yield operations
        hosts = GaugeMetricFamily("aima_hosts", "Hosts that have ever announced themselves.", labels=["state"])
        hosts.add_metric(["live"], found.live)
        hosts.add_metric(["away"], max(0, found.hosts - found.live))
        yield hosts
        yield GaugeMetricFamily("aima_hosts_drained", "Hosts that take no starts.", value=found.drained)
        # By host, since a sum would shrink with a host that is forgotten, and read as a new beginning of all of it.
        dropped = CounterMetricFamily("aima_messages_dropped", "Messages that made no sense.", labels=["host"])
        for host, number in found.dropped.items():
            dropped.add_metric([host], number)
        yield dropped

    def describe(self) -> Iterator[Metric]:
        return iter(())  # or it would be asked for all of it once, before anybody wants it


class Measured:
    """An ASGI layer around all others, that counts what goes through it."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._count(scope, message["status"], time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, send_counted)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        method, route = scope["method"], getattr(scope.get("route"), "path", _NO_ROUTE)
        if route == _NO_ROUTE:
            method = _NO_ROUTE  # which anybody may invent
        self._metrics.requests.labels(method, route, status).inc()
        self._metrics.seconds.labels(method, route).observe(seconds)


COUNTS_EVERY = timedelta(seconds=1)


class RedisStats(NamedTuple):
    active: int
    """Operations that have not ended."""
    waiting: int
    """Those of them that wait for a host with room."""
    hosts: int
    live: int
    drained: int
    dropped: dict[str, int]
    """Messages that made no sense, by the host that met them; 0 for one that met none of late."""


def redis_stats(redis: TextRedis) -> RedisStats:
    """Raises BrokerUnavailable within seconds."""
    with redis.pipeline(transaction=False) as pipe:
        pipe.zcard(keys.ACTIVE)
        pipe.zcard(keys.WAITING)
        pipe.hlen(keys.HOSTS)
        pipe.hlen(keys.DRAINED)
        pipe.hgetall(keys.DROPPED)
        pipe.zrange(keys.HOSTS_SEEN, 0, -1, withscores=True)
        pipe.time()
        active, waiting, hosts, drained, dropped, seen, (seconds, _) = pipe.execute()
    live = sum(at > seconds - keys.HOST_DEAD.total_seconds() for _, at in seen)
    by_host = {host: int(dropped.get(host, 0)) for host, _ in seen}
    return RedisStats(active, waiting, hosts, live=live, drained=drained, dropped=by_host)


class BacklogLimit:
    """How many starts and pulls may be put down beside those that have not ended, near enough.

    Counted in Redis now and then, and by this node's own in between: a bound on floods need not cost each start a
    round trip. Stops are never counted: they make the number smaller.
    """

    def __init__(self, redis: TextRedis, *, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._most = most
        self._clock = clock
        self._active = 0
        self._count_again_at = float("-inf")

    def reserve(self, number: int) -> None:
        """Raises TooManyOperations, BrokerUnavailable."""
        if (now := self._clock()) >= self._count_again_at:
            self._active = self._redis.zcard(keys.ACTIVE)
            self._count_again_at = now + COUNTS_EVERY.total_seconds()
        if self._active + number > self._most:
            raise TooManyOperations(active=self._active, most=self._most)
        self._active += number
