"""Prometheus metrics: this node's requests and streams, and the operations, hosts and dropped messages in Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aima_api.http.server import ConnectionMetrics
from aima_core.errors import BrokerUnavailable, CorruptData
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore
from aima_core.store.readable import replies

BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Seconds; the timeout of every request is five."""
_NO_ROUTE = "none"
"""The label of requests refused before routing, and of unknown paths."""


class Metrics:
    def __init__(
        self,
        redis: TextRedis,
        *,
        streams: Callable[[], int],
        followed_logs: Callable[[], int],
        dropped: Callable[[], Mapping[str, int]],
    ) -> None:
        """`dropped`: the malformed messages that this node has dropped, by channel."""
        registry = self._registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self.requests = Counter("aima_requests", "Requests answered.", labels, registry=registry)
        self.seconds = Histogram(
            "aima_request_seconds", "Until the response begins.", labels[:2], buckets=BUCKETS, registry=registry
        )
        self._refused = Counter(
            "aima_requests_refused", "Requests refused for their key or their rate.", ["code"], registry=registry
        )
        self.connections = ConnectionMetrics(registry)
        open_streams = Gauge("aima_event_streams", "Event streams open on this node.", registry=registry)
        open_streams.set_function(streams)
        logs = Gauge("aima_followed_logs", "Instances whose log is followed on this node.", registry=registry)
        logs.set_function(followed_logs)
        ProcessCollector(registry=registry)
        registry.register(_DroppedCollector(dropped))
        registry.register(_RedisCollector(redis))

    def count_refusal(self, code: str) -> None:
        self._refused.labels(code).inc()

    def read(self) -> bytes:
        """The exposition as text; during an outage of Redis only this node's own metrics, after its timeout."""
        return generate_latest(self._registry)


class _DroppedCollector(Collector):
    def __init__(self, dropped: Callable[[], Mapping[str, int]]) -> None:
        self._dropped = dropped

    def collect(self) -> Iterator[Metric]:
        name, text = "aima_channel_messages_dropped", "Malformed messages from Redis that this node has dropped."
        messages = CounterMetricFamily(name, text, labels=["channel"])
        for channel, number in self._dropped().items():
            messages.add_metric([channel], number)
        yield messages


class _RedisCollector(Collector):
    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis

    def collect(self) -> Iterator[Metric]:
        try:
            active, waiting = self._count_operations()
            hosts = HostStore(self._redis).all()
            # Of all routes that a worker has announced: a gauge of 0 distinguishes an empty queue from an unknown one.
            routes = sorted({route for host in hosts for route in host.routes})
            pending, lengths = OperationStore(self._redis).count_pending(routes)
        except (BrokerUnavailable, CorruptData):
            yield GaugeMetricFamily("aima_redis_up", "Whether Redis answers.", value=0)
            return
        yield GaugeMetricFamily("aima_redis_up", "Whether Redis answers.", value=1)
        states = {"waiting for room": waiting, "queued or running": active - waiting}
        yield _by("state", "aima_operations", "Operations that have not ended.", states)
        yield _by("queue", "aima_queue_length", "Messages that no worker has taken yet.", lengths)
        by_route = "Operations that wait for room; they have no message on a queue."
        yield _by("route", "aima_operations_pending", by_route, pending)
        live = sum(host.live for host in hosts)
        by_state = {"live": live, "away": len(hosts) - live}
        yield _by("state", "aima_hosts", "Hosts that have ever announced themselves.", by_state)
        drained = sum(host.drained for host in hosts)
        yield GaugeMetricFamily("aima_hosts_drained", "Hosts that take no starts.", value=drained)
        # By host: a sum would shrink with a forgotten host, and Prometheus would read a counter reset.
        messages = CounterMetricFamily("aima_messages_dropped", "Malformed messages dropped.", labels=["host"])
        for host in hosts:
            messages.add_metric([host.name], host.messages_dropped)
        yield messages

    def _count_operations(self) -> tuple[int, int]:
        """The active ones, and of these the ones that wait for room. Raises BrokerUnavailable."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.zcard(keys.ACTIVE)
            pipe.zcard(keys.WAITING)
            active, waiting = replies(pipe)
        return active or 0, waiting or 0

    def describe(self) -> Iterator[Metric]:
        return iter(())  # otherwise registration collects, and would block on Redis


def _by(label: str, name: str, text: str, values: Mapping[str, int]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(name, text, labels=[label])
    for each, value in values.items():
        gauge.add_metric([each], value)
    return gauge


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
