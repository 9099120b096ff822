"""The way to an instance, and its connections.

It is reached directly where the gateway shares its loopback, else through its host's data plane. Names and addresses do
not decide locality: containers and copied machines share them. An instance without a way gets no requests, and its
stale address never leads to another instance: a token names the instance that it is for.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDictProxy
from yarl import URL

from aima_core.domain.ids import InstanceId
from aima_core.domain.services import Instance
from aima_core.system.loopback import is_loopback
from aima_core.trust.gateways import TokenSigner

KEEP_ALIVE = timedelta(seconds=2)
"""The idle timeout of a connection to an engine; below the timeout of common engines, 5 s."""
COPIED_BODY = 65_536
"""Bytes up to which a body is copied behind its head, for one system call."""


@dataclass(frozen=True)
class Direct:
    """The address that the instance's worker reports."""

    url: str

    def headers(self) -> Mapping[str, str]:
        return {}


@dataclass(frozen=True)
class ThroughDataplane:
    url: str
    instance: InstanceId
    tokens: TokenSigner

    def headers(self) -> Mapping[str, str]:
        """Raises NotCertified."""
        return {"Authorization": f"Bearer {self.tokens.token(self.instance)}"}


class Reach:
    def __init__(self, tokens: TokenSigner | None, *, loopback: str | None) -> None:
        """Without tokens, no data plane is used; `loopback` identifies the gateway's own."""
        self.needs_tokens = asyncio.Event()
        """Set once an instance is reached by a data plane."""
        self._tokens = tokens
        self._loopback = loopback

    def target_of(self, instance: Instance) -> Direct | ThroughDataplane | None:
        """None if no way leads to it."""
        endpoint = instance.endpoint
        if endpoint is None:
            return None
        if instance.loopback is None or instance.loopback == self._loopback:
            return Direct(endpoint)
        if instance.dataplane and self._tokens:
            self.needs_tokens.set()
            return ThroughDataplane(f"{instance.dataplane}/i/{instance.id}", instance.id, self._tokens)
        return None if is_loopback(urlsplit(endpoint).hostname or "") else Direct(endpoint)


class EngineAnswer(NamedTuple):
    """An answer whose head is received."""

    status: int
    headers: CIMultiDictProxy[str]
    content: aiohttp.StreamReader
    connection: aiohttp.connector.Connection

    def close(self) -> None:
        """Ends the engine's work unless the answer is received whole: then its connection is in use elsewhere."""
        self.connection.close()


class EngineConnections:
    """Sends requests over connections that are kept.

    It uses the HTTP client's connector and parser without its session: redirects, cookies and generated headers, of
    which a gateway wants none, cost more than all that it does for a request itself.
    """

    def __init__(self, *, connect: timedelta, tls: ssl.SSLContext) -> None:
        """In the event loop; `tls` is for data planes."""
        self._connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE.total_seconds(), ssl=tls)
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect.total_seconds())
        self._destination = lru_cache(maxsize=1024)(_destination)

    async def close(self) -> None:
        await self._connector.close()

    async def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> EngineAnswer:
        """Raises ClientError, OSError."""
        destination, start = self._destination(method, url)
        head = _head(start, headers, len(body))
        try:
            connection = await self._connector.connect(destination, traces=[], timeout=self._timeout)
        except TimeoutError as expired:
            raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {url}") from expired
        try:
            return await _exchange(connection, head, body)
        except HttpProcessingError as malformed:
            connection.close()
            raise aiohttp.ClientPayloadError(f"its answer is malformed: {malformed.message}") from malformed
        except BaseException:
            connection.close()
            raise


async def _exchange(connection: aiohttp.connector.Connection, head: bytes, body: bytes) -> EngineAnswer:
    protocol, transport = connection.protocol, connection.transport
    if protocol is None or transport is None:
        raise aiohttp.ServerDisconnectedError
    protocol.set_response_params(read_until_eof=True, auto_decompress=False)
    if len(body) <= COPIED_BODY:
        transport.write(head + body)
    else:
        transport.write(head)
        transport.write(body)
    status = 100
    while 100 <= status < 200:  # informational
        message, content = await protocol.read()
        status = message.code

    def received() -> None:
        if transport.get_write_buffer_size():  # the engine has answered before it has read the request
            connection.close()
        else:
            connection.release()

    content.on_eof(received)
    return EngineAnswer(status, message.headers, content, connection)


def _destination(method: str, url: str) -> tuple[aiohttp.ClientRequest, bytes]:
    """What the connector needs of a request, and the first lines of its head."""
    target = URL(url, encoded=True)
    lines = f"{method} {target.raw_path_qs} HTTP/1.1\r\nHost: {target.host_port_subcomponent}\r\n"
    return aiohttp.ClientRequest(method, target, loop=asyncio.get_running_loop()), lines.encode()


def _head(start: bytes, headers: Mapping[str, str], length: int) -> bytes:
    """Raises ValueError for a header that would end its line."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        raise ValueError("a header contains a line end")
    return b"%s%scontent-length: %d\r\n\r\n" % (start, lines.encode("latin-1"), length)
