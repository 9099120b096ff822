"""Forwards requests of gateways to engines: one path for each instance, streamed both ways without a buffer.

A client that leaves cancels its request, which closes the connection to the engine and so ends the engine's work. An
engine that breaks off breaks off the client's connection: an answer that was cut never looks complete.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import structlog
from aiohttp import (
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
)
from aiohttp.web import BaseRequest, Response, StreamResponse
from aiohttp.web_protocol import RequestHandler
from yarl import URL

from aima_core.errors import AimaError, EngineUnreachable, NotForwarded, TokenRefused
from aima_core.trust.gateways import OF_DATAPLANE, TokenVerifier
from aima_worker.dataplane.files import AddressReader, EngineAddress
from aima_worker.dataplane.headers import METHODS, forwarded_answer, forwarded_request, path_of

CONNECT_TIMEOUT = timedelta(seconds=2)
KEEPALIVE = timedelta(seconds=2)
"""Less than that of every engine in use, so that none closes an idle connection as it is used again."""
SHORT_BODY = 65_536
"""Bytes up to which a body is sent together with its head."""
SILENCE = timedelta(minutes=15)
"""The longest time without a byte in either direction; gateways have shorter limits, which they can set."""
_log = structlog.get_logger()

_GENERATED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
"""Headers that the HTTP client would add."""


def session_to_engines() -> ClientSession:
    return ClientSession(
        connector=TCPConnector(limit=0, keepalive_timeout=KEEPALIVE.total_seconds(), use_dns_cache=False),
        timeout=ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT.total_seconds()),
        cookie_jar=DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=_GENERATED,
        trust_env=False,
    )


class Forwarder:
    """The handler of the HTTP server."""

    def __init__(self, tokens: TokenVerifier, addresses: AddressReader, session: ClientSession) -> None:
        self.tokens = tokens
        self._addresses = addresses
        self._session = session
        self._active: dict[RequestHandler, float] = {}
        """Connections with a request in flight, with the time of the last byte."""

    async def __call__(self, request: BaseRequest) -> StreamResponse:
        self._touch(request)
        try:
            return await self._forward(request)
        except AimaError as refused:
            return _problem(refused)
        except Exception:  # the error boundary of a request: the server itself logs nothing
            _log.exception("request not forwarded")
            raise
        finally:
            del self._active[request.protocol]

    def abort_silent(self) -> None:
        """Breaks off requests without a byte for SILENCE."""
        limit = asyncio.get_running_loop().time() - SILENCE.total_seconds()
        for connection, active_at in list(self._active.items()):
            if active_at < limit:
                _break_off(connection)

    async def _forward(self, request: BaseRequest) -> StreamResponse:
        """Raises NotForwarded, TokenRefused, EngineUnreachable."""
        path = path_of(request.raw_path) if request.method in METHODS else None
        if path is None:
            raise NotForwarded
        self.tokens.check(_token(request), path.instance)
        engine = self._addresses.find(path.instance)
        if engine is None:
            raise NotForwarded
        try:
            answer = await self._send(request, engine, path.rest)
        except (ClientError, OSError) as failed:
            why = "it does not accept connections" if isinstance(failed, OSError) else "it closed the connection"
            raise EngineUnreachable(instance=path.instance, why=why) from failed
        try:
            return await self._stream(request, answer)
        finally:
            answer.close()

    async def _send(self, request: BaseRequest, engine: EngineAddress, rest: str) -> ClientResponse:
        host = f"[{engine.address}]" if ":" in engine.address else engine.address
        return await self._session.request(
            request.method,
            URL(f"http://{host}:{engine.port}{rest}", encoded=True),
            headers=forwarded_request(request.headers),
            data=await self._body(request),
            allow_redirects=False,
        )

    async def _body(self, request: BaseRequest) -> bytes | AsyncIterator[bytes] | None:
        if not request.body_exists:
            return None
        if request.content_length is not None and request.content_length <= SHORT_BODY:
            return await request.content.read()
        return self._parts(request)

    async def _parts(self, request: BaseRequest) -> AsyncIterator[bytes]:
        async for part in request.content.iter_any():
            self._touch(request)
            yield part

    async def _stream(self, request: BaseRequest, answer: ClientResponse) -> StreamResponse:
        response = StreamResponse(status=answer.status, reason=answer.reason, headers=forwarded_answer(answer.headers))
        await response.prepare(request)
        try:
            async for part in answer.content.iter_any():
                self._touch(request)
                await response.write(part)
        except (ClientError, OSError):
            _break_off(request.protocol)
            raise asyncio.CancelledError from None
        await response.write_eof()
        return response

    def _touch(self, request: BaseRequest) -> None:
        self._active[request.protocol] = asyncio.get_running_loop().time()


def _break_off(connection: RequestHandler) -> None:
    """Without a shutdown of the stream, so that a partial answer does not look complete."""
    if isinstance(connection.transport, asyncio.WriteTransport):
        connection.transport.abort()


def _token(request: BaseRequest) -> str:
    """Raises TokenRefused."""
    given = request.headers.getall("Authorization", ())
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not token:
        raise TokenRefused(why="there is none")
    return token


def _problem(error: AimaError) -> Response:
    failure = error.failure
    document: dict[str, Any] = {
        "type": f"urn:aima:problem:{failure.code}",
        "title": failure.code.replace("_", " ").capitalize(),
        "status": error.status,
        "detail": failure.message,
        "code": failure.code,
        "hint": failure.hint,
    }
    return Response(
        body=json.dumps(document).encode(),
        status=error.status,
        headers={OF_DATAPLANE: failure.code, "Content-Type": "application/problem+json"},
    )
