"""Connection limits below the middleware: the number of connections, the size of a request's head, and deadlines.

The server's own protocol buffers endless headers without a limit and never disconnects a silent client: both exhaust
the node before any key is checked. Each connection here has a deadline until its request is received whole; a sweep,
once a second, answers those that passed it with 408 and disconnects them, silent ones without an answer. Event streams
have no request to receive and are not affected.
"""

from __future__ import annotations

import asyncio
import resource
import time
from asyncio.sslproto import SSLProtocol
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from enum import StrEnum
from functools import lru_cache, partial
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from math import inf
from ssl import SSLContext
from typing import Any

import structlog
from pydantic import ByteSize
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from aima_api.http.problems import problem
from aima_core.domain.units import format_duration, format_size
from aima_core.errors import AimaError, HeadersTooLarge, PlainRequest, RequestTimeout, TooManyConnections

MAX_HEAD: ByteSize = ByteSize(32 << 10)
"""The request line and all headers and trailers."""
MAX_HEADERS = 100
MAX_PIPELINED = 16
"""Requests that a client sends before their predecessors' responses."""
RECEIVE_TIMEOUT = timedelta(seconds=20)
"""From a connection, or the first byte of its next request, until that request is received with its body."""
SEND_TIMEOUT = timedelta(minutes=2)
"""From the end of a response until the client has received it, and for a client that reads nothing of a long one."""
HANDSHAKE_TIMEOUT = timedelta(seconds=10)
KEEP_ALIVE_TIMEOUT = timedelta(seconds=5)
"""For the next request on an idle connection."""
SWEEP_INTERVAL = timedelta(seconds=1)
RESERVED_DESCRIPTORS = 256
"""For Redis, files, and connections that are being refused."""
LOG_INTERVAL = timedelta(seconds=10)
"""Refusals in between are counted by the metric only, so that they cannot flood the log."""
WATCH = "aima.watch"
"""The extension of an ASGI scope whose `watch` and `write` are `watch` and `write_part` of the connection."""
_HANDSHAKE_RECORD = 22
"""The first byte that a TLS client sends."""

_log = structlog.get_logger()


Answer = Callable[[AimaError, str], tuple[list[tuple[bytes, bytes]], bytes]]
"""The headers and the body that answer a request to a path, `*` if it is not known."""


def problem_document(refusal: AimaError, path: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    response = problem(refusal, instance=path)
    return response.raw_headers, bytes(response.body)


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
        body_timeout: timedelta = timedelta(),
        answer: Answer = problem_document,
    ) -> None:
        """`body_timeout` is added to RECEIVE_TIMEOUT once a request's headers are received."""
        self._most = most
        self._per_address = per_address
        self._trusted = trusted
        self._count_refused = count_refused
        self.body_timeout = body_timeout
        self._answer = answer
        self._open: dict[ClientConnection | TlsConnection, str] = {}
        """With the address that each counts for; empty for a trusted proxy."""
        self._by_address: Counter[str] = Counter()
        self._logged_at = -inf
        self._swept_at = -inf

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: ClientConnection | TlsConnection, peer: str) -> None:
        """Counts the connection until `release`. Raises TooManyConnections."""
        address = "" if self._is_trusted(peer) else _counted_address(peer)
        if len(self._open) >= self._most:
            self.report(Refused.NODE, peer)
            raise TooManyConnections(who="This node", most=self._most)
        if address and self._by_address[address] >= self._per_address:
            self.report(Refused.ADDRESS, peer)
            raise TooManyConnections(who=f"The address {address}", most=self._per_address)
        self._open[connection] = address
        if address:
            self._by_address[address] += 1

    def release(self, connection: ClientConnection | TlsConnection) -> None:
        """Does nothing for a connection that was not admitted or has been released."""
        if address := self._open.pop(connection, ""):
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    def sweep(self) -> None:
        """Ends the connections whose deadline has passed; at most once per interval."""
        now = time.monotonic()
        if now - self._swept_at < SWEEP_INTERVAL.total_seconds():
            return
        self._swept_at = now
        for connection in [each for each in self._open if each.is_overdue(now)]:
            self.report(Refused.DEADLINE, connection.peer)
            connection.end()

    def report(self, reason: Refused, peer: str) -> None:
        self._count_refused(reason)
        if time.monotonic() - self._logged_at >= LOG_INTERVAL.total_seconds():
            self._logged_at = time.monotonic()
            _log.warning("connection refused", reason=reason.value, peer=peer, open=len(self._open))

    def response(self, refusal: AimaError, path: str = "*") -> bytes:
        """The whole response of a connection that is closed after it."""
        headers, body = self._answer(refusal, path)
        lines = b"".join(b"%s: %s\r\n" % header for header in (*headers, (b"connection", b"close")))
        return b"HTTP/1.1 %d \r\n%s\r\n%s" % (refusal.status, lines, body)

    def _is_trusted(self, peer: str) -> bool:
        if not self._trusted:
            return False
        with suppress(ValueError):
            address = ip_address(peer)
            return any(address in network for network in self._trusted)
        return False


class ClientConnection(HttpToolsProtocol):
    """The server's protocol with limits for one request after the other."""

    def __init__(self, *args: Any, limits: ConnectionLimits, over_tls: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self.peer = ""
        self._limits = limits
        self._over_tls = over_tls
        """TlsConnection has admitted it, and releases it."""
        self._receive_by = inf
        self._flush_by = inf
        self._resume_by = inf
        """The client must have read by then what its response's buffer holds beyond its limit."""
        self._receiving = False
        """A request has begun, and its end is not received."""
        self._has_head = False
        """The head of that request is received."""
        self._unparsed = 0
        """Bytes since the parser last returned a head, a piece of a body, or the end of a request."""
        self._refusal: AimaError | None = None
        self._left: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
        self.peer = _peer_of(transport)
        self._receive_by = time.monotonic() + RECEIVE_TIMEOUT.total_seconds()
        super().connection_made(transport)
        if not self._over_tls:
            try:
                self._limits.admit(self, self.peer)
            except TooManyConnections as refusal:
                self._refuse(refusal)

    def connection_lost(self, exc: Exception | None) -> None:
        self._limits.release(self)
        super().connection_lost(exc)
        if self._left is not None:
            self._left()

    def watch(self, left: Callable[[], None] | None) -> None:
        """Calls it when the client closes the connection, at once if it has; None ends that.

        It costs less than a task that waits for `http.disconnect`.
        """
        self._left = left
        if left is not None:
            if self.parser is None:
                left()
            else:
                self.flow.resume_reading()

    def write_part(self, cycle: RequestResponseCycle, part: bytes) -> bool:
        """A part of an answer in chunks whose head is sent; returns whether the client has read enough for the next.

        It costs less than a message to the server.
        """
        if not cycle.disconnected:
            cycle.transport.write(b"%x\r\n%b\r\n" % (len(part), part))
        return not self.flow.write_paused

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > MAX_HEAD and not self.transport.is_closing():
            self._refuse(self._too_large())
        if not (self._receiving or self._unparsed):
            self._receive_by = inf
        elif self._receive_by == inf:
            self._receive_by = time.monotonic() + RECEIVE_TIMEOUT.total_seconds()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {WATCH: {"watch": self.watch}}
        self._receiving, self._has_head = True, False

    def on_headers_complete(self) -> None:
        size = len(self.url)
        for name, value in self.headers:
            size += len(name) + len(value)
        if size > MAX_HEAD or len(self.headers) > MAX_HEADERS:
            raise self._too_large()
        self._unparsed, self._has_head = 0, True
        super().on_headers_complete()
        self.scope["extensions"][WATCH]["write"] = partial(self.write_part, self.cycle)
        self.cycle.transport = _HeadWithBody(self.transport, self.loop)  # type: ignore[assignment]  # as much of one as it uses
        self._receive_by += self._limits.body_timeout.total_seconds()
        if len(self.pipeline) > MAX_PIPELINED:
            raise self._too_large()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._unparsed = 0

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._receiving, self._has_head, self._unparsed = False, False, 0

    def on_response_complete(self) -> None:
        self._flush_by = time.monotonic() + SEND_TIMEOUT.total_seconds()
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._resume_by = time.monotonic() + SEND_TIMEOUT.total_seconds()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._resume_by = inf
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """The parser has raised: by a limit of this class, or because the request is malformed."""
        if self._refusal is None:
            super().send_400_response(msg)
        else:
            self._refuse(self._refusal)

    def is_overdue(self, now: float, *, unsent: int | None = None) -> bool:
        """`unsent` bytes are those of its own transport, unless that is encrypted."""
        if now > self._receive_by or now > self._resume_by:
            return True
        return now > self._flush_by and bool(self.transport.get_write_buffer_size() or unsent)

    def end(self) -> None:
        """Disconnects the client, after an answer if it may have one."""
        if not self.answer_overdue():
            self.transport.abort()

    def answer_overdue(self) -> bool:
        """Answers a request that was not received in time, and closes the connection; returns whether it could."""
        if not self._may_answer():
            return False
        limit = RECEIVE_TIMEOUT + (self._limits.body_timeout if self._has_head else timedelta())
        if self._has_head:
            self.cycle.disconnected = True  # the application reads no part of the body, and sends nothing
            self.cycle.message_event.set()
        self._refuse(RequestTimeout(limit=format_duration(limit)))
        return True

    def _may_answer(self) -> bool:
        """A request has begun that has no answer yet, and so have none before it."""
        if self._refusal is not None or time.monotonic() <= self._receive_by or not (self._receiving or self._unparsed):
            return False
        if self._has_head:
            return not (self.cycle.response_started or self.pipeline)
        return self.cycle is None or self.cycle.response_complete

    def _too_large(self) -> HeadersTooLarge:
        """Raised in a callback of the parser, which stops and calls `send_400_response`."""
        self._refusal = HeadersTooLarge(limit=format_size(MAX_HEAD), number=MAX_HEADERS)
        return self._refusal

    def _refuse(self, refusal: AimaError) -> None:
        self._refusal = refusal
        if isinstance(refusal, HeadersTooLarge):
            self._limits.report(Refused.HEADERS, self.peer)
        self.transport.write(self._limits.response(refusal, self.scope["path"] if self._has_head else "*"))
        self._receive_by = inf
        self._flush_by = time.monotonic() + RECEIVE_TIMEOUT.total_seconds()
        self.transport.close()


class _HeadWithBody:
    """Sends the head of an answer together with the first part of its body: one system call, and one segment.

    The head waits for the body until the event loop's next iteration at most.
    """

    __slots__ = ("_head", "_is_sent", "_loop", "_transport", "is_closing")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.is_closing = transport.is_closing
        self._transport = transport
        self._loop = loop
        self._head = b""
        self._is_sent = False

    def write(self, data: bytes) -> None:
        if self._is_sent:
            self._transport.write(data)
        elif self._head:
            self._is_sent = True
            self._transport.write(self._head + data)
        else:
            self._head = data
            self._loop.call_soon(self._send_head)

    def close(self) -> None:
        self._send_head()
        self._transport.close()

    def _send_head(self) -> None:
        if not self._is_sent:
            self._is_sent = True
            self._transport.write(self._head)


class TlsConnection(SSLProtocol):
    """TLS over a connection that counts from its beginning: the server's own TLS accepts any number of silent clients.

    Plain HTTP is answered with a problem document, since a client would see a broken connection only.
    """

    max_size = 16 << 10
    """Of the buffer that each connection has; the base class takes 256 KiB."""

    def __init__(self, client: ClientConnection, *, limits: ConnectionLimits, context: SSLContext) -> None:
        super().__init__(
            asyncio.get_running_loop(),
            client,
            context,
            None,  # type: ignore[arg-type]  # nothing waits for the handshake
            server_side=True,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT.total_seconds(),  # type: ignore[arg-type]  # may be a float
            ssl_shutdown_timeout=HANDSHAKE_TIMEOUT.total_seconds(),
        )
        self.peer = ""
        self._client = client
        self._limits = limits
        self._raw: asyncio.Transport | None = None
        self._first: memoryview | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as above
        self.peer = _peer_of(transport)
        try:
            self._limits.admit(self, self.peer)
        except TooManyConnections:
            transport.abort()  # an answer would need the handshake, whose cost the limit saves
            return
        self._raw = transport
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._limits.release(self)
        if self._raw is not None and not self._client.peer:
            self._limits.report(Refused.HANDSHAKE, self.peer)
        super().connection_lost(exc)

    def get_buffer(self, n: int) -> memoryview:
        buffer: memoryview = super().get_buffer(n)
        if self._first is None:
            self._first = buffer
        return buffer

    def buffer_updated(self, nbytes: int) -> None:
        begins_handshake = self._client.peer or self._first is None or self._first[0] == _HANDSHAKE_RECORD
        if begins_handshake or self._raw is None:
            self._first = memoryview(bytes([_HANDSHAKE_RECORD]))
            super().buffer_updated(nbytes)
        else:
            self._raw.write(self._limits.response(PlainRequest()))
            self._raw.close()

    def is_overdue(self, now: float) -> bool:
        """The handshake has a timeout of its own."""
        if self._raw is None or not self._client.peer:
            return False
        return self._client.is_overdue(now, unsent=self._raw.get_write_buffer_size())

    def end(self) -> None:
        if not self._client.answer_overdue() and self._raw is not None:
            self._raw.abort()


def connection_factory(
    limits: ConnectionLimits, tls: Callable[[], SSLContext] | None
) -> Callable[..., asyncio.BaseProtocol]:
    """The protocols of new connections; `tls` returns the context for the next handshake."""

    def plain(**options: Any) -> asyncio.BaseProtocol:
        return ClientConnection(limits=limits, **options)

    def encrypted(**options: Any) -> asyncio.BaseProtocol:
        assert tls is not None
        client = ClientConnection(limits=limits, over_tls=True, **options)
        return TlsConnection(client, limits=limits, context=tls())

    return encrypted if tls else plain


def _peer_of(transport: asyncio.BaseTransport) -> str:
    address = transport.get_extra_info("peername")
    return str(address[0]) if address else "unknown"


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
