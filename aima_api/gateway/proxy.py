"""Passes a request to an instance and its answer back; retries once elsewhere until the first byte reached the client.

Answers in JSON are received whole before the client gets a byte, streams until their first part: an engine that breaks
before is replaced by another. After that the client gets an error in the stream, never a false end.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from math import inf
from typing import NamedTuple

import msgspec
import structlog

from aima_api.gateway.balancer import Backend, Balancer, Failing, Slot
from aima_api.gateway.errors import JSON, Headers, engine_error_body, error_event
from aima_api.gateway.exchange import Exchange, Interrupt
from aima_api.gateway.inference import PATH_OF
from aima_api.gateway.metrics import GAPS, GatewayMetrics, Times
from aima_api.gateway.requests import ClientLeft
from aima_api.gateway.streams import EventRelay, EventTooLarge, ModelName, read_usage
from aima_api.gateway.table import ModelRoute, Table
from aima_core.domain.units import format_duration, format_size
from aima_core.errors import (
    AimaError,
    EngineBroke,
    EngineTimeout,
    NoInstanceReady,
    NotCertified,
    PathNotServed,
    Unauthorized,
)
from aima_core.settings import GatewaySettings
from aima_core.system.engine_connections import (
    AnswerBroken,
    EngineAnswer,
    EngineConnections,
    EngineDisconnected,
    EngineRequestFailed,
)
from aima_core.trust.gateways import OF_DATAPLANE

RETURNED = (b"content-type", b"content-disposition", b"cache-control", b"retry-after")
"""Headers of an engine's answer that the client gets."""
RETRIED_STATUSES = (502, 503, 504)
REFUSING_STATUSES = (401, 403, 407)
"""Of an engine or a host that refuses the gateway: the client's key is valid."""
MAX_ERROR = 1 << 20
_EVENTS, _JSON = b"text/event-stream", b"application/json"
_BREAKS = (EngineRequestFailed, EventTooLarge)

_log = structlog.get_logger()


class _Reply(NamedTuple):
    """An error that an engine answered with."""

    status: int
    headers: Headers
    body: bytes


class _Failed(Exception):
    """An attempt that failed before the client got a byte."""

    def __init__(self, error: AimaError, reply: _Reply | None = None, *, closed: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.reply = reply
        self.closed = closed
        """The connection was closed without an answer, as an idle one may be."""


class Proxy:
    def __init__(
        self,
        table: Table,
        balancer: Balancer,
        metrics: GatewayMetrics,
        settings: GatewaySettings,
        *,
        tls: ssl.SSLContext,
    ) -> None:
        self._table = table
        self._balancer = balancer
        self._metrics = metrics
        self._settings = settings
        self._clock = balancer.clock
        self._tls = tls
        """To data planes."""
        self._engines: EngineConnections | None = None

    def open(self) -> None:
        """In the event loop."""
        self._engines = EngineConnections(connect=self._settings.connect, tls=self._tls)

    async def close(self) -> None:
        if self._engines is not None:
            await self._engines.aclose()

    async def pass_on(self, exchange: Exchange, route: ModelRoute) -> None:
        """Raises AimaError if the client got no byte; ClientLeft."""
        slot = await self._slot(exchange, route)
        try:
            with slot:
                return await self._attempt(exchange, slot.backend)
        except _Failed as first:
            again = await self._slot_elsewhere(exchange, route, slot.backend, first)
            if again is None:
                return await self._give_up(exchange, first)
        self._metrics.retries.labels(again.backend.model, again.backend.instance).inc()
        try:
            with again:
                return await self._attempt(exchange, again.backend)
        except _Failed as second:
            return await self._give_up(exchange, second)

    async def _give_up(self, exchange: Exchange, failed: _Failed) -> None:
        """Raises AimaError unless the engine answered."""
        if failed.reply is None:
            raise failed.error
        exchange.outcome = "error"
        await exchange.answer(*failed.reply)

    async def _slot(self, exchange: Exchange, route: ModelRoute) -> Slot:
        """Raises PathNotServed, NoInstanceReady, GatewayBusy."""
        operation = exchange.request.operation
        for services in route.pools:
            if slot := self._balancer.pick(self._backends(services), operation):
                return slot
        for services in route.pools:
            if any(operation in each.serves for each in self._backends(services)):
                return await self._wait(exchange, services, without=())
        served = sorted({each for pool in route.pools for one in self._backends(pool) for each in one.serves})
        if served:
            paths = ", ".join(PATH_OF[each] for each in PATH_OF if each in served)
            raise PathNotServed(model=route.model, path=PATH_OF[operation], served=paths or "none of them")
        raise NoInstanceReady(model=route.model, service=route.pools[0][0], why="none is ready", wait=5)

    async def _slot_elsewhere(
        self, exchange: Exchange, route: ModelRoute, failed: Backend, why: _Failed
    ) -> Slot | None:
        """For the one retry. The same instance only if it is alone, and closed the connection."""
        operation, without = exchange.request.operation, (failed,)
        for services in route.pools:
            if slot := self._balancer.pick(self._backends(services), operation, without=without):
                return slot
        for services in route.pools:
            others = [each for each in self._backends(services) if each is not failed]
            if any(operation in each.serves for each in others):
                return await self._wait(exchange, services, without=without)
        return Slot(self._balancer, failed) if why.closed and not failed.leaving else None

    async def _wait(self, exchange: Exchange, services: tuple[str, ...], *, without: tuple[Backend, ...]) -> Slot:
        operation, model = exchange.request.operation, exchange.request.model

        def pick() -> Slot | None:
            return self._balancer.pick(self._backends(services), operation, without=without)

        try:
            return await self._balancer.wait(services, pick, key=exchange.key.id, model=model)
        except asyncio.CancelledError:
            raise self._interrupted(exchange, None) from None

    def _backends(self, services: Iterable[str]) -> list[Backend]:
        return [backend for service in services for backend in self._table.serving(service)]

    async def _attempt(self, exchange: Exchange, backend: Backend) -> None:
        """Raises _Failed before the client got a byte, AimaError, ClientLeft."""
        assert self._engines is not None
        request, response = exchange.request, None
        exchange.backend = backend
        limit = Interrupt.FIRST_BYTE if request.stream else Interrupt.ANSWER
        exchange.allow(self._clock() + getattr(self._settings, limit).total_seconds(), limit)
        try:
            own = await self._own_name(backend)
            name = request.model if request.model in backend.names else own
            response = await self._engines.request(
                "POST",
                backend.target.url + PATH_OF[request.operation],
                [*exchange.passed, *backend.target.headers()],
                request.body_for(name),
            )
            rename = ModelName(request.model) if own != request.model else None
            await self._relay(exchange, backend, response, rename)
        except NotCertified as uncertified:
            self._fail(backend, Failing.CONNECTION)
            raise _Failed(uncertified) from uncertified
        except _BREAKS as broke:
            await self._broke(exchange, backend, broke)
        except asyncio.CancelledError:
            interrupted = self._interrupted(exchange, backend)
            if not (exchange.started and isinstance(interrupted, AimaError)):
                raise interrupted from None
            await self._end_broken(exchange, interrupted)
        finally:
            if response is not None:
                response.close()

    async def _relay(
        self, exchange: Exchange, backend: Backend, response: EngineAnswer, rename: ModelName | None
    ) -> None:
        named = dict(response.headers)
        headers = [(name, named[name]) for name in RETURNED if name in named]
        kind = named.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if response.status >= 300:
            await self._relay_error(exchange, backend, response, headers, refused=OF_DATAPLANE in named)
        elif kind == _EVENTS:
            await self._relay_events(exchange, backend, response, headers, rename)
        elif kind == _JSON:
            await self._relay_whole(exchange, backend, response, headers, rename)
        else:
            await self._relay_bytes(exchange, backend, response, headers, length=named.get(b"content-length"))

    async def _relay_error(
        self, exchange: Exchange, backend: Backend, response: EngineAnswer, headers: Headers, *, refused: bool
    ) -> None:
        """`refused` by the data plane, not by the engine."""
        status = response.status
        body = await _read(response, MAX_ERROR)
        if status in REFUSING_STATUSES or status < 400 or refused:
            raise self._failed(backend, Failing.STATUS, f"it answered the gateway with status {status}")
        kept = [each for each in headers if each[0] == b"retry-after"]
        reply = _Reply(status, [JSON, *kept], engine_error_body(status, body, exchange.request.operation))
        if status < 500:
            backend.succeeded(self._clock())
            exchange.outcome = "error"
            await exchange.answer(*reply)
            return
        if status in RETRIED_STATUSES:
            raise self._failed(backend, Failing.UNAVAILABLE, f"it answered with status {status}", reply)
        self._fail(backend, Failing.STATUS)
        exchange.outcome = "error"
        await exchange.answer(*reply)

    async def _relay_whole(
        self,
        exchange: Exchange,
        backend: Backend,
        response: EngineAnswer,
        headers: Headers,
        rename: ModelName | None,
    ) -> None:
        body = await _read(response, self._settings.body)
        self._first_byte(exchange, backend)
        read_usage(body, exchange.usage)
        if rename is not None:
            body = rename.rename(body)
        exchange.outcome = "complete"
        await exchange.answer(response.status, headers, body)

    async def _relay_bytes(
        self, exchange: Exchange, backend: Backend, response: EngineAnswer, headers: Headers, *, length: bytes | None
    ) -> None:
        """Such as audio. A client sees that it is cut off by its missing end only."""
        silence = self._settings.silence.total_seconds()
        if length is not None:
            headers.append((b"content-length", length))
        part = await response.read()
        self._first_byte(exchange, backend)
        await exchange.start(response.status, headers)
        while part:
            exchange.deadline = inf
            await exchange.send({"type": "http.response.body", "body": part, "more_body": True})
            exchange.allow(self._clock() + silence, Interrupt.SILENCE)
            part = await response.read()
        exchange.outcome = "complete"
        await exchange.finish()

    async def _relay_events(
        self,
        exchange: Exchange,
        backend: Backend,
        response: EngineAnswer,
        headers: Headers,
        rename: ModelName | None,
    ) -> None:
        clock, write = self._clock, exchange.write
        silence, gaps = self._settings.silence.total_seconds(), Times(GAPS)
        stream = EventRelay(exchange.request.operation, hides_usage=exchange.request.hides_usage, rename=rename)
        exchange.usage, exchange.sends_events = stream.usage, True
        last = clock()

        def relay(part: bytes) -> bool:
            nonlocal last
            now = clock()
            exchange.deadline = now + silence
            if block := stream.feed(part):
                gaps.add(now - last)
                last = now
                return write(block)
            return True

        try:
            while not exchange.started and (part := await response.read()):
                if block := stream.feed(part):
                    last = self._first_byte(exchange, backend)
                    await exchange.start(response.status, [*headers, (b"x-accel-buffering", b"no")])
                    write(block)
                exchange.allow(clock() + silence, Interrupt.SILENCE)
            while not await response.deliver(relay):
                exchange.deadline = inf  # while the client reads
                await exchange.flush()
                exchange.deadline = clock() + silence
            if not stream.ended:
                raise AnswerBroken("it ended its stream without the last event")
            exchange.outcome = "complete"
            await exchange.finish()
        finally:
            if not (stream.usage.output or stream.usage.audio_seconds):
                stream.usage.output, stream.usage.estimated = stream.events, True
            self._metrics.add_gaps(backend, gaps)

    def _first_byte(self, exchange: Exchange, backend: Backend) -> float:
        now = exchange.first_byte_at = self._clock()
        exchange.deadline = inf
        backend.succeeded(now)
        self._metrics.observe_first_byte(backend, now - exchange.began)
        return now

    async def _broke(self, exchange: Exchange, backend: Backend, broke: Exception) -> None:
        """Raises _Failed, unless the client's stream has begun: then ends it with an error."""
        _log.info("engine broke", instance=backend.instance, reason=str(broke) or type(broke).__name__)
        closed = isinstance(broke, EngineDisconnected)
        failed = self._failed(backend, Failing.CONNECTION, str(broke), closed=closed)
        if not exchange.started:
            raise failed from broke
        await self._end_broken(exchange, failed.error)

    async def _end_broken(self, exchange: Exchange, error: AimaError) -> None:
        """An error in the stream. An answer of another kind stays without its end, which closes the connection."""
        exchange.outcome = error.code
        exchange.done = True
        if exchange.sends_events:
            await exchange.finish(error_event(error, exchange.request.operation))

    def _interrupted(self, exchange: Exchange, backend: Backend | None) -> BaseException:
        """What the cancellation of a request means; a cancellation from elsewhere stays one."""
        why = exchange.interrupted
        if why is None:
            return asyncio.CancelledError()
        exchange.resume()
        if why is Interrupt.LEFT:
            return ClientLeft()
        if why is Interrupt.REVOKED or backend is None:
            return Unauthorized(what="one that was revoked meanwhile")
        limit = getattr(self._settings, why)
        self._fail(backend, Failing.SILENCE if exchange.started else Failing.FIRST_BYTE)
        return EngineTimeout(instance=backend.instance, limit=format_duration(limit), setting=why)

    def _failed(
        self, backend: Backend, reason: Failing, why: str, reply: _Reply | None = None, *, closed: bool = False
    ) -> _Failed:
        self._fail(backend, reason)
        error = EngineBroke(instance=backend.instance, service=backend.service, why=why)
        return _Failed(error, reply, closed=closed)

    def _fail(self, backend: Backend, reason: Failing) -> None:
        if backend.failed(reason, self._clock()):
            self._metrics.cool_downs.labels(backend.instance, reason).inc()
            _log.warning("instance left out", instance=backend.instance, reason=reason)

    async def _own_name(self, backend: Backend) -> str:
        """The model's name in the engine's answers: the first of its `names`, else the first of its own listing."""
        if backend.names:
            return backend.names[0]
        if backend.own_name is None:
            assert self._engines is not None
            response = await self._engines.request("GET", f"{backend.target.url}/v1/models", backend.target.headers())
            try:
                listed = await _read(response, MAX_ERROR)
            finally:
                response.close()
            backend.own_name = _first_listed(listed) or backend.model
        return backend.own_name


class _Listed(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Listed]


def _first_listed(answer: bytes) -> str | None:
    try:
        data = msgspec.json.decode(answer, type=_Models).data
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return data[0].id if data else None


async def _read(response: EngineAnswer, limit: int) -> bytes:
    """The whole body."""
    parts, size = [], 0
    while part := await response.read():
        parts.append(part)
        size += len(part)
        if size > limit:
            raise AnswerBroken(f"its answer is larger than {format_size(limit)}")
    return parts[0] if len(parts) == 1 else b"".join(parts)
