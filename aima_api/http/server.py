"""The HTTP server of an API node or a gateway: TLS, limits of connections, and the first line of its output."""

from __future__ import annotations

import asyncio
import socket
import sys
from datetime import timedelta
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry, Counter, Gauge

from aima_api.http.connections import (
    KEEP_ALIVE_TIMEOUT,
    Answer,
    ConnectionLimits,
    connection_factory,
    most_connections,
    problem_document,
)
from aima_api.http.tls import ReloadingCertificate
from aima_core.errors import BrokerUnavailable
from aima_core.redis.connection import without_credentials
from aima_core.redis.interface import TextRedis
from aima_core.settings import ListenerSettings

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SHUTDOWN_TIMEOUT = timedelta(seconds=5)
"""For requests in progress when the node receives a signal."""


class ConnectionMetrics:
    """Open and refused connections."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.open = Gauge("aima_connections", "Connections open to this node.", registry=registry)
        self._refused = Counter(
            "aima_connections_refused", "Connections refused or cut by a limit.", ("reason",), registry=registry
        )

    def count_refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()


class LimitedServer(uvicorn.Server):
    """Raises BadSettings if its certificate cannot be loaded."""

    def __init__(
        self,
        app: Any,
        settings: ListenerSettings,
        metrics: ConnectionMetrics,
        *,
        body_timeout: timedelta = timedelta(),
        shutdown_timeout: timedelta = SHUTDOWN_TIMEOUT,
        answer: Answer = problem_document,
        **options: Any,
    ) -> None:
        """`body_timeout` is added to the time that a client has for a request; `answer` describes a refusal."""
        self._scheme = "https" if settings.tls.certificate else "http"
        proxies, files = settings.trusted_proxies, settings.tls
        tls = ReloadingCertificate(files.certificate, files.key).context if files.certificate and files.key else None
        self.limits = ConnectionLimits(
            most=most_connections(settings.connections),
            per_address=settings.connections_per_address,
            trusted=proxies,
            count_refused=metrics.count_refused,
            body_timeout=body_timeout,
            answer=answer,
        )
        metrics.open.set_function(lambda: len(self.limits))
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.bind,
                port=settings.port,
                http=connection_factory(self.limits, tls),  # type: ignore[arg-type]  # a factory
                ws="none",  # an upgraded connection would leave the limits
                proxy_headers=bool(proxies),
                forwarded_allow_ips=[str(network) for network in proxies],
                timeout_keep_alive=int(KEEP_ALIVE_TIMEOUT.total_seconds()),
                access_log=False,
                server_header=False,
                log_level="warning",
                timeout_graceful_shutdown=int(shutdown_timeout.total_seconds()),
                **options,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            await asyncio.to_thread(self._print_listening)

    async def on_tick(self, counter: int) -> bool:
        self.limits.sweep()
        return await super().on_tick(counter)

    def describe(self) -> str:
        """What it serves; overridden."""
        raise NotImplementedError

    def _print_listening(self) -> None:
        """The first line of a node's output: where it listens, and whether Redis answers."""
        address = self.config.host
        port = self.servers[0].sockets[0].getsockname()[1]
        url = f"{self._scheme}://{f'[{address}]' if ':' in address else address}:{port}"
        sys.stderr.write(f"Listening on {url}; {self.describe()}\n")


def redis_state(redis: TextRedis, url: str) -> str:
    """The address of Redis, and whether it answers."""
    try:
        redis.ping()
        state = "connected"
    except BrokerUnavailable:
        state = "waiting"
    return f"Redis: {without_credentials(url)} ({state})"
