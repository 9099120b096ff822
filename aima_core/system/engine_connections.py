"""A pool of HTTP connections to engines and data planes; an idle one expires before its timeout at the engine.

An answer is either read part by part, or delivered: then its parts reach a function straight from the connection's
callback, without the queue and the switch to a task that a part costs otherwise.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from socket import SOCK_STREAM
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools
from aiohappyeyeballs import start_connection

KEEP_ALIVE = timedelta(seconds=2)
"""The idle timeout of a connection to an engine; below the timeout of common engines, 5 s."""
COPIED_BODY = 65_536
"""Bytes up to which a body is copied behind its head, for one system call."""
MAX_ANSWER_HEAD = 64 << 10
MAX_BUFFERED = 128 << 10
"""Bytes of an answer that wait for their reader before the connection is paused."""
_CLOSES_WITHIN = 1.0
"""Seconds that transports get to close their sockets."""
_NEXT_ADDRESS_AFTER = 0.25
"""Seconds until the next address of a name is tried beside one that does not answer."""
_CLOSED = "it closed the connection"
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
"""The headers by which the end of a body is known."""
HeaderPairs = Sequence[tuple[bytes, bytes]]


class EngineRequestFailed(Exception):
    """The message is for clients: it names no address."""


class EngineNotReached(EngineRequestFailed):
    """It was not connected; the cause is the error of the connection."""


class CertificateUntrusted(EngineNotReached):
    """The TLS handshake failed by its certificate."""


class EngineDisconnected(EngineRequestFailed):
    """It closed the connection without an answer, as it may an idle one."""


class AnswerBroken(EngineRequestFailed):
    """The answer is malformed, or ended early."""


class RequestMalformed(EngineRequestFailed):
    """It was not sent."""


class StreamedBody(NamedTuple):
    parts: AsyncIterator[bytes]
    length: int | None
    """In bytes; None for one that is sent in chunks."""


class _Destination(NamedTuple):
    host: str
    port: int
    encrypted: bool


class EngineAnswer:
    """An answer whose head is received."""

    __slots__ = ("_connection", "_failure", "_parts", "_size", "_take", "_waiter", "headers", "reason", "status")

    def __init__(self, status: int, reason: str, headers: HeaderPairs, connection: EngineConnection) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        """As they were sent, with their names in lower case."""
        self._connection: EngineConnection | None = connection
        """None once the body has ended, or the connection."""
        self._parts: list[bytes] = []
        self._size = 0
        """Of the parts."""
        self._take: Callable[[bytes], bool] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._failure: Exception | None = None

    @property
    def buffered(self) -> int:
        """Bytes that have arrived and are not read."""
        return self._size

    @property
    def is_paused(self) -> bool:
        return self._connection is not None and self._connection.is_paused

    @property
    def has_ended(self) -> bool:
        """The body was received and read whole."""
        return self._connection is None and not self._parts and self._failure is None

    async def read(self) -> bytes:
        """What has arrived of the body, empty at its end. Raises EngineRequestFailed."""
        while not self._parts and self._connection is not None:
            await self._wait()
        if self._parts:
            return self._taken()
        if self._failure is not None:
            raise self._failure
        return b""

    async def deliver(self, take: Callable[[bytes], bool]) -> bool:
        """Calls `take` with each part of the body until its end, or until it returns False; returns whether it ended.

        Raises EngineRequestFailed, and what `take` raises.
        """
        if self._parts and not take(self._taken()):
            return False
        self._take = take
        try:
            while self._connection is not None:
                await self._wait()
                if self._take is None and self._failure is None:
                    return False
        finally:
            self._take = None
        if self._failure is not None:
            raise self._failure
        return True

    def close(self) -> None:
        """Ends the engine's work unless the answer is received whole: then its connection is in use elsewhere."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def add(self, part: bytes) -> None:
        self._parts.append(part)
        self._size += len(part)

    def pass_on(self) -> None:
        """Of the parts that have arrived together."""
        if not self._parts:
            return
        if self._take is None:
            self._wake()
            if self._size > MAX_BUFFERED and self._connection is not None:
                self._connection.pause()
            return
        try:
            if not self._take(self._taken()):
                self._take = None
                self._wake()
        except Exception as refused:  # noqa: BLE001 raised where the parts are awaited
            connection, self._take = self._connection, None
            self.end(refused)
            if connection is not None:
                connection.abort()

    def end(self, failure: Exception | None = None) -> None:
        self._connection, self._failure = None, self._failure or failure
        self._wake()

    def _taken(self) -> bytes:
        parts, self._parts, self._size = self._parts, [], 0
        if self._connection is not None:
            self._connection.resume()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class EngineConnections:
    def __init__(self, *, connect: timedelta, tls: ssl.SSLContext | None = None) -> None:
        """In the event loop; `tls` is for data planes."""
        self._connect_timeout = connect.total_seconds()
        self._tls = tls
        self._idle: dict[_Destination, deque[EngineConnection]] = {}
        self._open: set[EngineConnection] = set()
        self._all_closed = asyncio.Event()
        self._all_closed.set()
        self._expiry: asyncio.TimerHandle | None = None
        self._destination = lru_cache(maxsize=1024)(_destination)

    async def aclose(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        for connection in list(self._open):
            connection.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSES_WITHIN):
                await self._all_closed.wait()

    async def request(
        self, method: str, url: str, headers: HeaderPairs, body: bytes | StreamedBody = b""
    ) -> EngineAnswer:
        """Does not retry. Raises EngineRequestFailed."""
        try:
            destination, start = self._destination(method, url)
            head = _head(start, headers, len(body) if isinstance(body, bytes) else body.length)
        except ValueError as malformed:
            raise RequestMalformed(str(malformed)) from malformed
        connection = self._idle_connection(destination) or await self._connected(destination)
        try:
            return await connection.ask(head, body, has_body=method != "HEAD")
        except BaseException:
            connection.abort()
            raise

    def opened(self, connection: EngineConnection) -> None:
        self._open.add(connection)
        self._all_closed.clear()

    def closed(self, connection: EngineConnection) -> None:
        self._open.discard(connection)
        if not self._open:
            self._all_closed.set()
        with suppress(KeyError, ValueError):  # it was not idle
            self._idle[connection.destination].remove(connection)

    def release(self, connection: EngineConnection) -> None:
        """For the next request."""
        self._idle.setdefault(connection.destination, deque()).append(connection)
        if self._expiry is None:
            self._expire_in(KEEP_ALIVE.total_seconds())

    def _idle_connection(self, destination: _Destination) -> EngineConnection | None:
        """The one that was used last."""
        idle = self._idle.get(destination)
        oldest = asyncio.get_running_loop().time() - KEEP_ALIVE.total_seconds()
        while idle:
            connection = idle.pop()
            if connection.is_usable and connection.idle_since > oldest:
                return connection
            connection.abort()
        return None

    async def _connected(self, destination: _Destination) -> EngineConnection:
        loop = asyncio.get_running_loop()
        tls = self._context() if destination.encrypted else None
        try:
            async with asyncio.timeout(self._connect_timeout):
                addresses = await loop.getaddrinfo(destination.host, destination.port, type=SOCK_STREAM)
                _, connection = await loop.create_connection(
                    lambda: EngineConnection(self, destination),
                    sock=await start_connection(addresses, happy_eyeballs_delay=_NEXT_ADDRESS_AFTER),
                    ssl=tls,
                    server_hostname=destination.host if tls else None,
                )
        except ssl.SSLCertVerificationError as untrusted:
            raise CertificateUntrusted("its certificate is not trusted") from untrusted
        except OSError as failed:  # TimeoutError is one
            raise EngineNotReached("it accepts no connection") from failed
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def _expire_in(self, seconds: float) -> None:
        self._expiry = asyncio.get_running_loop().call_later(seconds, self._expire)

    def _expire(self) -> None:
        """Closes the connections that were idle for too long."""
        self._expiry = None
        oldest = asyncio.get_running_loop().time() - KEEP_ALIVE.total_seconds()
        for idle in list(self._idle.values()):
            while idle and idle[0].idle_since <= oldest:
                idle.popleft().abort()
        self._idle = {destination: idle for destination, idle in self._idle.items() if idle}
        if self._idle:
            first = min(idle[0].idle_since for idle in self._idle.values())
            self._expire_in(first - oldest)


class EngineConnection(asyncio.Protocol):
    """One exchange after the other."""

    def __init__(self, pool: EngineConnections, destination: _Destination) -> None:
        self.destination = destination
        self.idle_since = 0.0
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._head: asyncio.Future[EngineAnswer] | None = None
        """Of the answer that is awaited; None between two exchanges."""
        self._answer: EngineAnswer | None = None
        """The one whose body is received."""
        self._upload: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._reason = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._unparsed = 0
        """Bytes since the last head or part of a body."""
        self._has_body = True
        self._ends_with_connection = False
        """The body has neither a length nor chunks."""
        self._stays_open = False
        """After the answer."""
        self.is_paused = False

    @property
    def is_usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, head: bytes, body: bytes | StreamedBody, *, has_body: bool) -> EngineAnswer:
        """Raises EngineRequestFailed."""
        if self._transport is None:
            raise EngineDisconnected(_CLOSED)
        self._has_body, self._unparsed = has_body, 0
        self._head = asyncio.get_running_loop().create_future()
        if isinstance(body, StreamedBody):
            self._transport.write(head)
            self._upload = asyncio.create_task(self._send(body))
        elif len(body) <= COPIED_BODY:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)
        return await self._head

    def pause(self) -> None:
        if not self.is_paused and self._transport is not None:
            self.is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self.is_paused and self._transport is not None:
            self.is_paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Ends the exchange in progress without more words."""
        self._answer = self._head = None
        if self._upload is not None:
            self._upload.cancel()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._pool.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._pool.closed(self)
        self._writable.set()
        if self._answer is not None and self._ends_with_connection and exc is None:
            self.on_message_complete()
        else:
            self._fail(
                AnswerBroken("its answer ended early") if self._answer is not None else EngineDisconnected(_CLOSED)
            )

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._unparsed += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._break_off("its answer switches to another protocol")
        except httptools.HttpParserError as malformed:
            self._break_off(f"its answer is malformed: {malformed}")
        else:
            if self._answer is not None:
                self._answer.pass_on()
            if self._unparsed > MAX_ANSWER_HEAD:
                self._break_off(f"its answer has a head larger than {MAX_ANSWER_HEAD >> 10} KiB")

    # Called by the parser --------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._reason, self._headers = b"", []
        if self._head is None:
            raise AnswerBroken("it answers without a request")

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._answer is None:  # no trailer
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self._head is None or self._head.done():  # informational, or aborted
            return
        self._unparsed = 0
        self._stays_open = self._has_body and self._parser.should_keep_alive()
        self._ends_with_connection = _FRAMING.isdisjoint([name for name, _ in self._headers])
        reason = self._reason.decode("utf-8", "surrogateescape")
        self._answer = EngineAnswer(status, reason, self._headers, self)
        self._head.set_result(self._answer)
        if not self._has_body:  # the parser would wait for one of the length that the head states
            self.on_message_complete()

    def on_body(self, part: bytes) -> None:
        self._unparsed = 0
        if self._answer is not None:
            self._answer.add(part)

    def on_message_complete(self) -> None:
        if self._answer is None:  # informational, or aborted
            return
        answer, self._answer, self._head = self._answer, None, None
        self._unparsed = 0
        answer.pass_on()
        answer.end()
        if self._transport is None or self._transport.is_closing():
            return
        uploads = self._upload is not None and not self._upload.done()
        if uploads or not self._stays_open or self._transport.get_write_buffer_size():
            self.abort()  # such as one that has answered before it has read the request
        else:
            self.resume()
            self._upload, self.idle_since = None, asyncio.get_running_loop().time()
            self._pool.release(self)

    # -----------------------------------------------------------------------------------------------------------------

    def _break_off(self, why: str) -> None:
        self._fail(AnswerBroken(why))
        self.abort()

    def _fail(self, failure: EngineRequestFailed) -> None:
        if self._answer is not None:
            self._answer.end(failure)
        elif self._head is not None and not self._head.done():
            self._head.set_exception(failure)
        self._answer = self._head = None

    async def _send(self, body: StreamedBody) -> None:
        """A body that breaks off closes the connection: the engine must not take it for a whole one."""
        try:
            async for part in body.parts:
                await self._write(part if body.length is not None else b"%x\r\n%b\r\n" % (len(part), part))
            if body.length is None:
                await self._write(b"0\r\n\r\n")
        except BaseException:
            if self._transport is not None:
                self._transport.abort()
            raise

    async def _write(self, content: bytes) -> None:
        await self._writable.wait()
        if self._transport is None:
            raise EngineDisconnected(_CLOSED)
        self._transport.write(content)


def _destination(method: str, url: str) -> tuple[_Destination, bytes]:
    """Where a URL leads, and the first lines of the request's head. Raises ValueError."""
    target = urlsplit(url)
    if not (target.hostname and url.isascii() and url.isprintable()) or " " in url:
        raise ValueError(f"{url!r} is no URL")
    encrypted = target.scheme == "https"
    path = f"{target.path or '/'}?{target.query}" if target.query else target.path or "/"
    lines = f"{method} {path} HTTP/1.1\r\nHost: {target.netloc}\r\n"
    return _Destination(target.hostname, target.port or (443 if encrypted else 80), encrypted), lines.encode()


def _head(start: bytes, headers: HeaderPairs, length: int | None) -> bytes:
    """Raises ValueError for a header that would end its line."""
    lines = b"".join([b"%s: %s\r\n" % header for header in headers])
    if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers):
        raise ValueError("a header contains a line end")
    framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
    return b"%s%s%s\r\n\r\n" % (start, lines, framing)
