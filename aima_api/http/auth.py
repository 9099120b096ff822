"""Authentication middleware: API keys and scopes, rate limits, Host and Origin headers, a size limit for JSON bodies.

It runs before the router and the body parser, and audits what it refuses and every request that changes something.
On loopback it also blocks DNS rebinding (by the Host header) and cross-site requests (by Origin, and by a content type
that a page cannot send without a preflight).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pydantic import ByteSize
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aima_api.access.audit import AuditLog
from aima_api.access.keys import CONFIRM_INTERVAL, KeyCache, digest_of
from aima_api.access.limits import TokenBuckets
from aima_api.access.scopes import LOCAL, OPEN_PATHS, Caller, RequestAccess, required_scope
from aima_api.access.scopes import Scope as AccessScope
from aima_api.http.callers import SAFE_METHODS, KeyLookup, SettingsKeys, bearer_key, check_origin
from aima_api.http.problems import PATHS_HINT, problem
from aima_core.domain.units import format_size
from aima_core.errors import (
    AimaError,
    BodyTooLarge,
    NotFound,
    TooManyRequests,
    Unauthorized,
    UnsafeBind,
    WrongContentType,
)
from aima_core.logs.sanitize import sanitized
from aima_core.settings import ApiSettings
from aima_core.system.loopback import is_loopback

MAX_BODY: ByteSize = ByteSize(1 << 20)
_AUDITED_REFUSALS = (401, 403, 429)


def check_bind(settings: ApiSettings) -> None:
    """Raises UnsafeBind if the API would be reachable from the network without a key."""
    if not settings.keys and not is_loopback(settings.bind):
        raise UnsafeBind(address=settings.bind)


@dataclass(frozen=True)
class Guard:
    """What the middleware decides by, and where it counts and records."""

    keys: KeyCache
    audit: AuditLog
    refused: Callable[[str], None]
    """Counts a refusal by its code."""
    requests: TokenBuckets
    """Per key."""


class AuthMiddleware:
    """An ASGI middleware that answers a refused request itself, with a problem document."""

    def __init__(self, app: ASGIApp, *, settings: ApiSettings, guard: Guard) -> None:
        self._app = app
        self._settings_keys = SettingsKeys(settings.keys)
        self._loopback_only = is_loopback(settings.bind)
        self._guard = guard
        self._lookup = KeyLookup(guard.keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        access: RequestAccess | None = None
        audited: _AuditedSend | None = None
        try:
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            check_origin(headers.get("host", ""), origin, scope["method"], loopback_only=self._loopback_only)
            if scope["path"] not in OPEN_PATHS:
                digest = _given_digest(headers)
                access = RequestAccess(await self._caller(digest, _address(scope)))
                required = self._admit(access.caller, scope["method"], scope["path"])
                scope.setdefault("state", {})["access"] = access
                send = self._revocable(digest, send)
                if scope["method"] not in SAFE_METHODS and required is not AccessScope.READ:
                    send = audited = _AuditedSend(send, partial(self._record, self._guard.audit.record, scope, access))
            if scope["method"] not in SAFE_METHODS:
                receive = await _checked_body(headers, receive)
        except ClientDisconnect:
            return
        except AimaError as refusal:
            if refusal.status in _AUDITED_REFUSALS:
                self._guard.refused(refusal.code)
                self._record(self._guard.audit.record_refusal, scope, access, refusal.status, refusal.code)
            await problem(refusal, instance=scope["path"])(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        except _Revoked:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            if audited is not None:
                audited.finish()

    async def _caller(self, digest: str | None, address: str) -> Caller:
        """Raises Unauthorized, TooManyWrongKeys, BrokerUnavailable."""
        if digest is None:
            if self._settings_keys:
                raise Unauthorized(what="none")
            return LOCAL
        return self._settings_keys.caller(digest) or (await self._lookup.find(digest, address=address)).caller

    def _admit(self, caller: Caller, method: str, path: str) -> AccessScope | None:
        """The required scope. Raises TooManyRequests, InsufficientScope, NotFound."""
        if caller is not LOCAL and (wait := self._guard.requests.take(caller.id)) is not None:
            most = self._guard.requests.per_minute
            raise TooManyRequests(key=caller.name, most=most, wait=math.ceil(wait.total_seconds()))
        required = required_scope(method, path)
        if required is not None:
            caller.require(required)
        elif not caller.may(AccessScope.ADMIN):
            raise NotFound(path=path[:200], remedy=PATHS_HINT)
        return required

    def _revocable(self, digest: str | None, send: Send) -> Send:
        """Confirms the key again before each part of a stream: a revoked one receives nothing more."""
        if digest is None or self._settings_keys.caller(digest):
            return send
        confirmed_at = time.monotonic()

        async def send_confirmed(message: Message) -> None:
            nonlocal confirmed_at
            late = time.monotonic() - confirmed_at > CONFIRM_INTERVAL.total_seconds()
            if late and message["type"] == "http.response.body" and message.get("more_body", False):
                try:
                    await self._lookup.confirm(digest)
                except AimaError as refused:
                    raise _Revoked from refused
                confirmed_at = time.monotonic()
            await send(message)

        return send_confirmed

    def _record(
        self, record: Callable[..., None], scope: Scope, access: RequestAccess | None, status: int, code: str | None
    ) -> None:
        record(
            key=access.caller.name if access else None,
            key_id=access.caller.id if access else None,
            address=_address(scope),
            method=sanitized(scope["method"][:16]),
            path=sanitized(scope["path"][:200]),
            target=access.target if access else None,
            status=status,
            code=code,
        )


class _Revoked(Exception):
    """The caller's key is no longer valid, and its response has begun."""


class _AuditedSend:
    """Records the outcome of a request: when its response has begun, or when it ends without one."""

    def __init__(self, send: Send, record: Callable[[int, str | None], None]) -> None:
        self._send = send
        self._record = record
        self._status = AimaError.status
        self._recorded = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif message["type"] == "http.response.body":
            self.finish(message.get("body", b""))
        await self._send(message)

    def finish(self, body: bytes = b"") -> None:
        if not self._recorded:
            self._recorded = True
            self._record(self._status, _code_of(body) if self._status >= 400 else None)


async def _checked_body(headers: Headers, receive: Receive) -> Receive:
    """Reads the whole body within the limit. Returns a `receive` that replays it to the router.

    Raises ClientDisconnect if the connection ended before the body: a start must not run without its options.
    """
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            raise BodyTooLarge(limit=format_size(MAX_BODY))
    given = headers.get("content-type", "")
    if body and given.partition(";")[0].strip().lower() != "application/json":
        raise WrongContentType(given=repr(given[:100]) if given else "of no stated type", accepted="application/json")
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _given_digest(headers: Headers) -> str | None:
    """Of the bearer key; None without one."""
    key = bearer_key(headers.get("authorization", ""))
    return digest_of(key) if key else None


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def _code_of(body: bytes) -> str | None:
    """The code of a problem document."""
    try:
        code = json.loads(body)["code"]
    except (ValueError, KeyError, TypeError):
        return AimaError.code
    return code if isinstance(code, str) else None
