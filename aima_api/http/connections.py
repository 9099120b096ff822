"""Connection limits below the middleware: the number of connections, the size of a request's head, and deadlines.

The server's own protocol buffers endless headers without a limit and never disconnects a silent client: both exhaust
the node before any key is checked. Each connection here has a deadline until its request is received whole; a sweep,
once a second, disconnects those that passed it. Event streams have no request to receive and are not affected.
"""

from __future__ import annotations

import asyncio
import resource
import ssl
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from math import inf
from typing import Any

import structlog
from pydantic import ByteSize
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from aima_api.http.problems import problem
from aima_core.domain.units import format_size
from aima_core.errors import AimaError, HeadersTooLarge, TooManyConnections

MAX_HEAD: ByteSize = ByteSize(32 << 10)
"""The request line and all headers and trailers."""
MAX_HEADERS = 100
MAX_PIPELINED = 16
"""Requests that a client sends before their predecessors' responses."""
RECEIVE_TIMEOUT = timedelta(seconds=20)
"""From a connection, or the first byte of its next request, until that request is received with its body."""
SEND_TIMEOUT = timedelta(minutes=2)
"""From the end of a response until the client has received it."""
HANDSHAKE_TIMEOUT = timedelta(seconds=10)
KEEP_ALIVE_TIMEOUT = timedelta(seconds=5)
"""For the next request on an idle connection."""
SWEEP_INTERVAL = timedelta(seconds=1)
RESERVED_DESCRIPTORS = 256
"""For Redis, files, and connections that are being refused."""
LOG_INTERVAL = timedelta(seconds=10)
"""Refusals in between are counted by the metric only, so that they cannot flood the log."""

_log = structlog.get_logger()


class Refused(StrEnum):
    """Why a connection was refused or disconnected; a label of the metric."""

    ADDRESS = "too many of its address"
    NODE = "too many of the node"
    HEADERS = "headers too large"
    DEADLINE = "deadline exceeded"
    HANDSHAKE = "no TLS handshake"


class ConnectionLimits:
    """All connections of a node, counted by address; those of trusted proxies count against the node's limit only."""

    def __init__(
        self,
        *,
        most: int,
        per_address: int,
        trusted: Sequence[IPv4Network | IPv6Network] = (),
        count_refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._most = most
        self._per_address = per_address
        self._trusted = trusted
        self._count_refused = count_refused
        self._open: dict[ClientConnection, str] = {}
        """With the address that each counts for; empty for a trusted proxy."""
        self._by_address: Counter[str] = Counter()
        self._logged_at = -inf
        self._swept_at = -inf

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: ClientConnection, peer: str) -> None:
        """Counts the connection until `release`. Raises TooManyConnections."""
        address = "" if self._is_trusted(peer) else _counted_address(peer)
        if len(self._open) >= self._most:
            self.report(Refused.NODE, peer)
            raise TooManyConnections(who="This API node", most=self._most)
        if address and self._by_address[address] >= self._per_address:
            self.report(Refused.ADDRESS, peer)
            raise TooManyConnections(who=f"The address {address}", most=self._per_address)
        self._open[connection] = address
        if address:
            self._by_address[address] += 1

    def release(self, connection: ClientConnection) -> None:
        """Does nothing for a connection that was not admitted or has been released."""
        if address := self._open.pop(connection, ""):
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    def sweep(self) -> None:
        """Disconnects clients whose deadline has passed; at most once per interval."""
        now = time.monotonic()
        if now - self._swept_at < SWEEP_INTERVAL.total_seconds():
            return
        self._swept_at = now
        for connection in [each for each in self._open if each.is_overdue(now)]:
            self.report(Refused.DEADLINE, connection.peer)
            connection.abort()

    def abort_handshakes(self) -> None:
        for connection in [each for each in self._open if each.in_handshake]:
            connection.abort()

    def report(self, reason: Refused, peer: str) -> None:
        self._count_refused(reason)
        if time.monotonic() - self._logged_at >= LOG_INTERVAL.total_seconds():
            self._logged_at = time.monotonic()
            _log.warning("connection refused", reason=reason.value, peer=peer, open=len(self._open))

    def _is_trusted(self, peer: str) -> bool:
        if not self._trusted:
            return False
        with suppress(ValueError):
            address = ip_address(peer)
            return any(address in network for network in self._trusted)
        return False


class ClientConnection(HttpToolsProtocol):
    """The server's protocol with limits, and with a TLS handshake of its own: silent clients count during it, too."""

    def __init__(
        self, *args: Any, limits: ConnectionLimits, tls: Callable[[], ssl.SSLContext] | None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.peer = ""
        self.in_handshake = False
        self._limits = limits
        self._tls = tls
        self._received_early: list[bytes] = []
        self._handshake: asyncio.Task[None] | None = None
        self._receive_by = inf
        self._flush_by = inf
        self._receiving = False
        """A request has begun, and its end is not received."""
        self._unparsed = 0
        """Bytes since the parser last returned a piece of a body, or the end of a request."""
        self._head_size = 0
        self._refusal: AimaError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
        self.transport = transport
        self.peer = (transport.get_extra_info("peername") or ("",))[0]
        try:
            self._limits.admit(self, self.peer)
        except TooManyConnections as refusal:
            self._refuse(refusal)
            return
        self._receive_by = time.monotonic() + RECEIVE_TIMEOUT.total_seconds()
        if self._tls is None:
            super().connection_made(transport)
            return
        transport.pause_reading()  # the handshake resumes it
        self.in_handshake = True
        self._handshake = self.loop.create_task(self._shake_hands(transport, self._tls()))

    def connection_lost(self, exc: Exception | None) -> None:
        self._limits.release(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.in_handshake:  # after its end, and before the task has learned of it
            self._received_early.append(data)
            return
        if self._refusal is not None:
            return
        if self._unparsed > MAX_HEAD:
            self._refuse(self._too_large())
            return
        self._unparsed += len(data)
        super().data_received(data)
        if not (self._receiving or self._unparsed):
            self._receive_by = inf
        elif self._receive_by == inf:
            self._receive_by = time.monotonic() + RECEIVE_TIMEOUT.total_seconds()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._receiving, self._unparsed, self._head_size = True, 0, 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count_head(len(name) + len(value))

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if len(self.pipeline) > MAX_PIPELINED:
            raise self._too_large()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._unparsed = 0

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._receiving, self._unparsed = False, 0

    def on_response_complete(self) -> None:
        self._flush_by = time.monotonic() + SEND_TIMEOUT.total_seconds()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """The parser has raised: by a limit of this class, or because the request is malformed."""
        if self._refusal is None:
            super().send_400_response(msg)
        else:
            self._refuse(self._refusal)

    def is_overdue(self, now: float) -> bool:
        if now > self._receive_by:
            return True
        return now > self._flush_by and self.transport.get_write_buffer_size() > 0

    def abort(self) -> None:
        self.transport.abort()

    def _count_head(self, size: int) -> None:
        self._head_size += size
        if self._head_size > MAX_HEAD or len(self.headers) > MAX_HEADERS:
            raise self._too_large()

    def _too_large(self) -> HeadersTooLarge:
        """Raised in a callback of the parser, which stops and calls `send_400_response`."""
        self._refusal = HeadersTooLarge(limit=format_size(MAX_HEAD), number=MAX_HEADERS)
        return self._refusal

    def _refuse(self, refusal: AimaError) -> None:
        """Sends a problem document and closes; over TLS before its handshake, only closes."""
        self._refusal = refusal
        if isinstance(refusal, HeadersTooLarge):
            self._limits.report(Refused.HEADERS, self.peer)
        if self._tls is not None and self.scheme is None:
            self.abort()
            return
        response = problem(refusal, instance="*", headers={"Connection": "close"})
        head = [b"%s: %s\r\n" % header for header in response.raw_headers]
        self.transport.write(
            b"".join([b"HTTP/1.1 %d \r\n" % response.status_code, *head, b"\r\n", bytes(response.body)])
        )
        self._flush_by = time.monotonic() + RECEIVE_TIMEOUT.total_seconds()
        self.transport.close()

    async def _shake_hands(self, transport: asyncio.Transport, context: ssl.SSLContext) -> None:
        timeout = HANDSHAKE_TIMEOUT.total_seconds()
        try:
            encrypted = await self.loop.start_tls(
                transport, self, context, server_side=True, ssl_handshake_timeout=timeout
            )
        except OSError:  # timeouts, TLS errors and connection resets
            self._limits.report(Refused.HANDSHAKE, self.peer)
            self._limits.release(self)
            transport.abort()
            return
        assert encrypted is not None
        self.in_handshake = False
        if encrypted.is_closing():
            self._limits.release(self)
            return
        super().connection_made(encrypted)
        for data in self._received_early:
            self.data_received(data)
        self._received_early.clear()


def raise_descriptor_limit() -> None:
    """Raises the process' soft limit to its hard limit, as servers of many connections do."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def most_connections(wanted: int) -> int:
    """What the descriptor limit of the process leaves of that number."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - RESERVED_DESCRIPTORS))


@lru_cache(maxsize=4096)
def _counted_address(peer: str) -> str:
    """An IPv4 address, or the /64 network of an IPv6 address, of which one host has them all."""
    with suppress(ValueError):
        address = ip_address(peer)
        if isinstance(address, IPv6Address):
            mapped = address.ipv4_mapped
            return str(mapped) if mapped else str(IPv6Network((int(address) >> 64 << 64, 64)))
    return peer
