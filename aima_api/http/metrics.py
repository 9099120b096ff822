"""What Prometheus reads at /metrics: how this node answers, and what there is of operations and hosts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aima_api.http.tally import RedisStats
from aima_core.errors import BrokerUnavailable

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
