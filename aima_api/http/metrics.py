"""Prometheus metrics: this node's requests and streams, and the operations, hosts and dropped messages in Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aima_core.errors import BrokerUnavailable
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Seconds; the timeout of every request is five."""
_NO_ROUTE = "none"
"""The label of requests refused before routing, and of unknown paths."""


class Metrics:
    def __init__(self, redis: TextRedis, *, streams: Callable[[], int], followed_logs: Callable[[], int]) -> None:
        registry = self._registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self.requests = Counter("aima_requests", "Requests answered.", labels, registry=registry)
        self.seconds = Histogram(
            "aima_request_seconds", "Until the response begins.", labels[:2], buckets=BUCKETS, registry=registry
        )
        self.connections = Gauge("aima_connections", "Connections open to this node.", registry=registry)
        self.refused = Counter(
            "aima_connections_refused", "Connections refused or cut by a limit.", ("reason",), registry=registry
        )
        open_streams = Gauge("aima_event_streams", "Event streams open on this node.", registry=registry)
        open_streams.set_function(streams)
        logs = Gauge("aima_followed_logs", "Instances whose log is followed on this node.", registry=registry)
        logs.set_function(followed_logs)
        ProcessCollector(registry=registry)
        registry.register(_RedisCollector(redis))

    def read(self) -> bytes:
        """The exposition as text; during an outage of Redis only this node's own metrics, after its timeout."""
        return generate_latest(self._registry)


class _RedisCollector(Collector):
    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis

    def collect(self) -> Iterator[Metric]:
        try:
            active, waiting, known, drained, dropped, seen, (seconds, _) = self._read()
        except BrokerUnavailable:
            yield GaugeMetricFamily("aima_redis_up", "Whether Redis answers.", value=0)
            return
        yield GaugeMetricFamily("aima_redis_up", "Whether Redis answers.", value=1)
        operations = GaugeMetricFamily("aima_operations", "Operations that have not ended.", labels=["state"])
        operations.add_metric(["waiting for room"], waiting)
        operations.add_metric(["queued or running"], active - waiting)
        yield operations
        live = sum(at > seconds - keys.HOST_DEAD.total_seconds() for _, at in seen)
        hosts = GaugeMetricFamily("aima_hosts", "Hosts that have ever announced themselves.", labels=["state"])
        hosts.add_metric(["live"], live)
        hosts.add_metric(["away"], max(0, known - live))
        yield hosts
        yield GaugeMetricFamily("aima_hosts_drained", "Hosts that take no starts.", value=drained)
        # By host: a sum would shrink with a forgotten host, and Prometheus would read a counter reset.
        messages = CounterMetricFamily("aima_messages_dropped", "Malformed messages dropped.", labels=["host"])
        for host, _ in seen:
            messages.add_metric([host], int(dropped.get(host, 0)))
        yield messages

    def _read(self) -> list[Any]:
        """Raises BrokerUnavailable within seconds."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.zcard(keys.ACTIVE)
            pipe.zcard(keys.WAITING)
            pipe.hlen(keys.HOSTS)
            pipe.hlen(keys.DRAINED)
            pipe.hgetall(keys.DROPPED)
            pipe.zrange(keys.HOSTS_SEEN, 0, -1, withscores=True)
            pipe.time()
            return pipe.execute()

    def describe(self) -> Iterator[Metric]:
        return iter(())  # otherwise registration collects, and would block on Redis


class MetricsMiddleware:
    """The outermost ASGI middleware: counts requests by method, route and status, and measures their latency."""

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
            method = _NO_ROUTE  # clients can invent methods, and each label value is a new time series
        self._metrics.requests.labels(method, route, status).inc()
        self._metrics.seconds.labels(method, route).observe(seconds)
