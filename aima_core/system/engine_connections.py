"""A pool of HTTP connections to engines and data planes; an idle one expires before its timeout at the engine.

It uses the connector and the parser of aiohttp without its session: redirects, cookies and generated headers, of which
neither gateways nor data planes want any, cost more than all that they do for a request themselves.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import NamedTuple

import aiohttp
from aiohttp.http import HttpProcessingError, StreamWriter
from multidict import CIMultiDictProxy
from yarl import URL

KEEP_ALIVE = timedelta(seconds=2)
"""The idle timeout of a connection to an engine; below the timeout of common engines, 5 s."""
COPIED_BODY = 65_536
"""Bytes up to which a body is copied behind its head, for one system call."""
HeaderPairs = Sequence[tuple[bytes, bytes]]


class StreamedBody(NamedTuple):
    parts: AsyncIterator[bytes]
    length: int | None
    """In bytes; None for one that is sent in chunks."""


class EngineAnswer(NamedTuple):
    """An answer whose head is received."""

    status: int
    reason: str
    headers: CIMultiDictProxy[str]
    content: aiohttp.StreamReader
    connection: aiohttp.connector.Connection

    def close(self) -> None:
        """Ends the engine's work unless the answer is received whole: then its connection is in use elsewhere."""
        self.connection.close()


class EngineConnections:
    def __init__(self, *, connect: timedelta, tls: ssl.SSLContext | None = None) -> None:
        """In the event loop; `tls` is for data planes."""
        self._connector = aiohttp.TCPConnector(
            limit=0, keepalive_timeout=KEEP_ALIVE.total_seconds(), ssl=tls if tls is not None else True
        )
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect.total_seconds())
        self._destination = lru_cache(maxsize=1024)(_destination)

    async def aclose(self) -> None:
        await self._connector.close()

    async def request(
        self, method: str, url: str, headers: HeaderPairs, body: bytes | StreamedBody = b""
    ) -> EngineAnswer:
        """Does not retry. Raises ClientError, OSError, ValueError for a header that would end its line."""
        destination, start = self._destination(method, url)
        head = _head(start, headers, len(body) if isinstance(body, bytes) else body.length)
        try:
            connection = await self._connector.connect(destination, traces=[], timeout=self._timeout)
        except TimeoutError as expired:
            raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {url}") from expired
        try:
            return await _exchange(connection, head, body, has_answer=method != "HEAD")
        except HttpProcessingError as malformed:
            connection.close()
            raise aiohttp.ClientPayloadError(f"its answer is malformed: {malformed.message}") from malformed
        except BaseException:
            connection.close()
            raise


async def _exchange(
    connection: aiohttp.connector.Connection, head: bytes, body: bytes | StreamedBody, *, has_answer: bool
) -> EngineAnswer:
    protocol, transport = connection.protocol, connection.transport
    if protocol is None or transport is None:
        raise aiohttp.ServerDisconnectedError
    protocol.set_response_params(skip_payload=not has_answer, read_until_eof=True, auto_decompress=False)
    upload: asyncio.Task[None] | None = None
    if isinstance(body, StreamedBody):
        transport.write(head)
        upload = asyncio.create_task(_upload(connection, body))
    elif len(body) <= COPIED_BODY:
        transport.write(head + body)
    else:
        transport.write(head)
        transport.write(body)
    try:
        status = 100
        while 100 <= status < 200:  # informational
            message, content = await protocol.read()
            status = message.code
    except BaseException:
        if upload is not None:
            upload.cancel()
        raise

    def received() -> None:
        if upload is not None and not upload.done():
            upload.cancel()
            connection.close()
        elif transport.get_write_buffer_size():  # the engine has answered before it has read the request
            connection.close()
        else:
            connection.release()

    content.on_eof(received)
    return EngineAnswer(status, message.reason or "", message.headers, content, connection)


async def _upload(connection: aiohttp.connector.Connection, body: StreamedBody) -> None:
    """A body that breaks off closes the connection: the engine must not take it for a whole one."""
    protocol = connection.protocol
    assert protocol is not None
    writer = StreamWriter(protocol, asyncio.get_running_loop())
    if body.length is None:
        writer.enable_chunking()
    try:
        async for part in body.parts:
            await writer.write(part)
        await writer.write_eof()
    except BaseException:
        connection.close()
        raise


def _destination(method: str, url: str) -> tuple[aiohttp.ClientRequest, bytes]:
    """What the connector needs of a request, and the first lines of its head."""
    target = URL(url, encoded=True)
    lines = f"{method} {target.raw_path_qs} HTTP/1.1\r\nHost: {target.host_port_subcomponent}\r\n"
    return aiohttp.ClientRequest(method, target, loop=asyncio.get_running_loop()), lines.encode()


def _head(start: bytes, headers: HeaderPairs, length: int | None) -> bytes:
    """Raises ValueError for a header that would end its line."""
    lines = b"".join([b"%s: %s\r\n" % header for header in headers])
    if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers):
        raise ValueError("a header contains a line end")
    framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
    return b"%s%s%s\r\n\r\n" % (start, lines, framing)
