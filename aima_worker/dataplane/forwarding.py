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
from aiohttp.web import BaseRequest, Response, StreamResponse
from aiohttp.web_protocol import RequestHandler

from aima_core.errors import AimaError, EngineUnreachable, NotForwarded, TokenRefused
from aima_core.system.engine_connections import (
    EngineAnswer,
    EngineConnections,
    EngineRequestFailed,
    StreamedBody,
)
from aima_core.trust.gateways import OF_DATAPLANE, TokenVerifier
from aima_worker.dataplane.files import AddressReader, EngineAddress
from aima_worker.dataplane.headers import METHODS, forwarded_answer, forwarded_request, path_of
from aima_worker.dataplane.pieces import PREFIX, PieceServer

CONNECT_TIMEOUT = timedelta(seconds=2)
SHORT_BODY = 65_536
"""Bytes up to which a body is sent together with its head."""
SILENCE = timedelta(minutes=15)
"""The longest time without a byte in either direction; gateways have shorter limits, which they can set."""
_log = structlog.get_logger()


class Forwarder:
    """The handler of the HTTP server."""

    def __init__(
        self, tokens: TokenVerifier, addresses: AddressReader, engines: EngineConnections, pieces: PieceServer
    ) -> None:
        self.tokens = tokens
        self.pieces = pieces
        self._addresses = addresses
        self._engines = engines
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
        """Raises NotForwarded, TokenRefused, TooManyUploads, EngineUnreachable."""
        if request.raw_path.startswith(PREFIX):
            return await self._send_piece(request)
        path = path_of(request.raw_path) if request.method in METHODS else None
        if path is None:
            raise NotForwarded
        self.tokens.check(_token(request), path.instance)
        engine = self._addresses.find(path.instance)
        if engine is None:
            raise NotForwarded
        try:
            answer = await self._send(request, engine, path.rest)
        except EngineRequestFailed as failed:
            raise EngineUnreachable(instance=path.instance, why=str(failed)) from failed
        try:
            return await self._stream(request, answer)
        finally:
            answer.close()

    async def _send_piece(self, request: BaseRequest) -> StreamResponse:
        try:
            return await self.pieces.send(request, _token(request))
        except (OSError, RuntimeError):  # TimeoutError is an OSError; the receiver has left, or is too slow
            _break_off(request.protocol)
            raise asyncio.CancelledError from None

    async def _send(self, request: BaseRequest, engine: EngineAddress, rest: str) -> EngineAnswer:
        host = f"[{engine.address}]" if ":" in engine.address else engine.address
        return await self._engines.request(
            request.method,
            f"http://{host}:{engine.port}{rest}",
            forwarded_request(request.raw_headers),
            await self._body(request),
        )

    async def _body(self, request: BaseRequest) -> bytes | StreamedBody:
        if not request.body_exists:
            return b""
        if request.content_length is not None and request.content_length <= SHORT_BODY:
            return await request.content.read()
        return StreamedBody(self._parts(request), request.content_length)

    async def _parts(self, request: BaseRequest) -> AsyncIterator[bytes]:
        async for part in request.content.iter_any():
            self._touch(request)
            yield part

    async def _stream(self, request: BaseRequest, answer: EngineAnswer) -> StreamResponse:
        head: dict[str, Any] = {"status": answer.status, "reason": answer.reason}
        head["headers"] = forwarded_answer(answer.headers)
        try:
            part = await answer.read()
            if part and answer.has_ended:
                return Response(body=part, **head)  # sent with its head at once, for which the gateway wakes up once
            response = StreamResponse(**head)
            await response.prepare(request)
            while part:
                self._touch(request)
                await response.write(part)
                part = await answer.read()
        except (EngineRequestFailed, OSError):
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
        headers={OF_DATAPLANE.decode(): failure.code, "Content-Type": "application/problem+json"},
    )
