"""The ASGI application of a gateway: who may ask for what, and the paths that it answers itself."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from typing import Any

import msgspec
import structlog

from aima_api.access.keys import KEY_PREFIX, ApiKey, digest_of
from aima_api.access.quotas import Quotas
from aima_api.access.scopes import LOCAL, Caller, Scope
from aima_api.gateway.errors import JSON, Headers, error_body, error_headers
from aima_api.gateway.exchange import Exchange, Exchanges, Send, Watch
from aima_api.gateway.inference import PATHS, Inference
from aima_api.gateway.metrics import GatewayMetrics
from aima_api.gateway.proxy import Proxy
from aima_api.gateway.requests import ClientLeft, ModelRequest, Receive, read_body
from aima_api.gateway.table import ModelRoute, Table
from aima_api.http.callers import KeyLookup, SettingsKeys, bearer_key, check_origin
from aima_api.http.connections import WATCH
from aima_api.http.server import METRICS_TYPE
from aima_core.errors import AimaError, MethodNotAllowed, ModelNotAllowed, NotFound, Unauthorized
from aima_core.logs.access import AccessLog
from aima_core.settings import Settings
from aima_core.system.loopback import is_loopback

PASSED = (b"content-type", b"accept", b"traceparent", b"tracestate", b"anthropic-version", b"anthropic-beta")
"""Headers of a request that the engine gets; never its key."""
ACCESS_EVENT = "request answered"
ACCESS_FIELDS = ("request", "key", "path", "model", "instance", "status", "outcome", "ms", "tokens")
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
_LOCAL_KEY = ApiKey(
    id=LOCAL.id,
    name=LOCAL.name,
    scopes=(Scope.INFER, Scope.READ),
    created_at=datetime.fromtimestamp(0, UTC),
    created_by="",
)
_PATHS_HINT = f"A gateway serves {', '.join(PATHS)}, /v1/models, /healthz, /readyz and /metrics."

_log = structlog.get_logger()
_ids = (f"{prefix}{number:016x}".encode() for prefix in [secrets.token_hex(8)] for number in count())
"""Of requests without one: random by process, then counted, since a random one for each costs a system call."""
RawHeaders = dict[bytes, bytes]


class GatewayApp:
    """A raw ASGI application."""

    def __init__(
        self,
        settings: Settings,
        *,
        table: Table,
        proxy: Proxy,
        exchanges: Exchanges,
        metrics: GatewayMetrics,
        keys: KeyLookup,
        quotas: Quotas,
        clock: Callable[[], float],
        access_log: AccessLog,
        redis_answers: Callable[[], bool],
    ) -> None:
        self._settings_keys = SettingsKeys(settings.api.keys)
        self._loopback_only = is_loopback(settings.gateway.bind)
        self._open = self._loopback_only and not settings.api.keys
        """Processes of this machine need no key."""
        self._max_body = int(settings.gateway.body)
        self._table = table
        self._proxy = proxy
        self._exchanges = exchanges
        self._metrics = metrics
        self._keys = keys
        self._quotas = quotas
        self._clock = clock
        self._access_log = access_log
        self._redis_answers = redis_answers

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began = self._clock()
        headers: RawHeaders = dict(scope["headers"])
        path, operation = scope["path"], PATHS.get(scope["path"])
        returned = _returned(headers)
        try:
            self._check_origin(headers, scope["method"])
            if operation is None:
                await self._answer_itself(scope, headers, send, returned)
            elif scope["method"] != "POST":
                raise MethodNotAllowed(method=scope["method"], path=path, allowed="POST")
            else:
                await self._infer(operation, scope, headers, receive, send, returned, began)
        except ClientLeft:
            return
        except AimaError as refused:
            self._metrics.refused.labels(refused.code).inc()
            await _refuse(refused, operation, send, returned)
        except Exception as unexpected:  # noqa: BLE001 the error boundary: the client gets an error in the API's shape
            _log.exception("request failed", request=returned[0][1].decode("latin-1"))
            await _refuse(AimaError(detail=f"an unexpected {type(unexpected).__name__}."), operation, send, returned)

    async def _infer(
        self,
        operation: Inference,
        scope: dict[str, Any],
        headers: RawHeaders,
        receive: Receive,
        send: Send,
        returned: Headers,
        began: float,
    ) -> None:
        """Raises AimaError before a byte was sent, ClientLeft."""
        digest = _digest(headers, placeholder=self._open)
        key = await self._key(digest, scope)
        with self._quotas.admit(key):
            stated = headers.get(b"content-length", b"").decode("latin-1")
            body = await read_body(receive, limit=self._max_body, stated=stated)
            request = ModelRequest(operation, headers.get(b"content-type", b"").decode("latin-1"), body)
            route = self._route(request.model, key)
            exchange = Exchange(
                returned[0][1].decode("latin-1"),
                request,
                key=key,
                digest=digest,
                passed=_passed(headers, returned),
                returned=returned,
                send=send,
                write=scope["extensions"][WATCH]["write"],
                began=began,
            )
            await self._pass_on(exchange, route, scope["extensions"][WATCH]["watch"])

    async def _pass_on(self, exchange: Exchange, route: ModelRoute, watch: Watch) -> None:
        """Raises AimaError before a byte was sent, ClientLeft."""
        try:
            self._exchanges.begin(exchange, watch)
            await self._proxy.pass_on(exchange, route)
        except AimaError as failed:
            exchange.outcome, exchange.status = failed.code, failed.status
            raise
        except asyncio.CancelledError:
            if exchange.interrupted is None:
                raise
            exchange.resume()
        finally:
            self._exchanges.end(exchange, watch)
            self._record(exchange)

    def _check_origin(self, headers: RawHeaders, method: str) -> None:
        """Raises ForeignRequest."""
        host = headers.get(b"host", b"").decode("latin-1")
        origin = headers[b"origin"].decode("latin-1") if b"origin" in headers else None
        check_origin(host, origin, method, loopback_only=self._loopback_only)

    async def _key(self, digest: str | None, scope: dict[str, Any]) -> ApiKey:
        """Raises Unauthorized, TooManyWrongKeys, InsufficientScope, BrokerUnavailable."""
        if digest is None:
            if not self._open:
                raise Unauthorized(what="none")
            return _LOCAL_KEY
        if (key := self._keys.confirmed(digest)) is None:
            if admin := self._settings_keys.caller(digest):
                admin.require(Scope.INFER)
            client = scope.get("client")
            key = await self._keys.find(digest, address=str(client[0]) if client else "unknown")
        if Scope.INFER not in key.scopes:
            key.caller.require(Scope.INFER)
        return key

    def _route(self, model: str, key: ApiKey) -> ModelRoute:
        """Raises ModelNotFound, ModelNotAllowed, NoInstanceReady, BrokerUnavailable."""
        if key.models and not key.may_use(model, self._table.services_of(model)):
            raise ModelNotAllowed(key=key.name, model=repr(model), models=", ".join(key.models))
        return self._table.route(model)

    async def _answer_itself(self, scope: dict[str, Any], headers: RawHeaders, send: Send, returned: Headers) -> None:
        path = scope["path"]
        if scope["method"] not in ("GET", "HEAD"):
            raise MethodNotAllowed(method=scope["method"], path=path[:200], allowed="GET")
        match path:
            case "/healthz":
                await _answer(send, 200, [JSON, *returned], b'{"status":"ok"}')
            case "/readyz":
                served = self._table.names()
                state = {"ready": self._table.is_read, "redis": self._redis_answers(), "models": served}
                await _answer(send, 200 if self._table.is_read else 503, [JSON, *returned], msgspec.json.encode(state))
            case "/metrics":
                await self._check_reader(headers)
                text = await asyncio.to_thread(self._metrics.read)
                await _answer(send, 200, [(b"content-type", METRICS_TYPE.encode()), *returned], text)
            case "/v1/models":
                key = await self._key(_digest(headers, placeholder=self._open), scope)
                await _answer(send, 200, [JSON, *returned], msgspec.json.encode(self._models(key)))
            case _ if path.startswith("/v1/models/"):
                key = await self._key(_digest(headers, placeholder=self._open), scope)
                name = path.removeprefix("/v1/models/")
                self._route(name, key)  # a name that is not served raises
                await _answer(send, 200, [JSON, *returned], msgspec.json.encode(_model(name)))
            case _:
                raise NotFound(path=path[:200], remedy=_PATHS_HINT)

    async def _check_reader(self, headers: RawHeaders) -> None:
        """Raises Unauthorized, InsufficientScope."""
        digest = _digest(headers, placeholder=self._open)
        caller: Caller = LOCAL
        if digest is not None:
            caller = self._settings_keys.caller(digest) or (await self._keys.find(digest, address="")).caller
        elif not self._open:
            raise Unauthorized(what="none")
        caller.require(Scope.READ)

    def _models(self, key: ApiKey) -> dict[str, Any]:
        """As clients of either API read it."""
        if not self._table.is_read:
            self._table.route("")
        names = self._table.names()
        names = [name for name in names if key.may_use(name, self._table.services_of(name))]
        first, last = (names[0], names[-1]) if names else (None, None)
        data = [_model(name) for name in names]
        return {"object": "list", "data": data, "has_more": False, "first_id": first, "last_id": last}

    def _record(self, exchange: Exchange) -> None:
        backend, request, metrics = exchange.backend, exchange.request, self._metrics
        model, instance = (backend.model, backend.instance) if backend else ("", "")
        metrics.count_request(request.operation, model, instance, exchange.key.id, exchange.status)
        if backend is not None:
            metrics.add_tokens(backend, exchange.key.id, exchange.usage)
            if exchange.started and exchange.status < 300:
                metrics.add_audio(backend, exchange.key.id, request, exchange.usage)
            if exchange.outcome == "left":
                metrics.aborted.labels(model, instance).inc()
        self._access_log.add(  # in the order of ACCESS_FIELDS
            exchange.id,
            exchange.key.name,
            request.operation,
            request.model,
            instance,
            exchange.status,
            exchange.outcome,
            round((self._clock() - exchange.began) * 1000, 1),
            f"{exchange.usage.input}+{exchange.usage.output}",
        )


def _digest(headers: RawHeaders, *, placeholder: bool) -> str | None:
    """Of the key: a bearer's, or as Anthropic's clients send it.

    `placeholder` admits what clients must be given and is no key of AIMA, as if none was given.
    """
    given = bearer_key(headers.get(b"authorization", b"").decode("latin-1"))
    key = given or headers.get(b"x-api-key", b"").decode("latin-1").strip()
    if not key or (placeholder and not key.startswith(KEY_PREFIX)):
        return None
    return digest_of(key)


def _returned(headers: RawHeaders) -> Headers:
    """The request's id, its own if it has a usable one, and its trace."""
    given = headers.get(b"x-request-id", b"")
    id = given if given and _REQUEST_ID.fullmatch(given) else next(_ids)
    trace = headers.get(b"traceparent")
    return [(b"x-request-id", id), *([(b"traceparent", trace)] if trace else [])]


def _passed(headers: RawHeaders, returned: Headers) -> Headers:
    kept = [(name, headers[name]) for name in PASSED if name in headers]
    return [*kept, returned[0], (b"accept-encoding", b"identity")]


def _model(name: str) -> dict[str, Any]:
    known: dict[str, Any] = {"id": name, "object": "model", "created": 0, "owned_by": "aima"}
    return known | {"type": "model", "display_name": name, "created_at": "1970-01-01T00:00:00Z"}


async def _refuse(refused: AimaError, operation: Inference | None, send: Send, returned: Headers) -> None:
    await _answer(send, refused.status, [*error_headers(refused), *returned], error_body(refused, operation))


async def _answer(send: Send, status: int, headers: Headers, body: bytes) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body, "more_body": False})
