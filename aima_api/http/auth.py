"""Authentication middleware: bearer keys, Host and Origin headers, and a size limit for JSON bodies.

It runs before the router and the body parser. On loopback it also blocks DNS rebinding (by the Host header) and
cross-site requests (by Origin, and by a content type that a page cannot send without a preflight).
"""

from __future__ import annotations

import hmac
from hashlib import sha256

from pydantic import ByteSize
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aima_api.http.problems import problem
from aima_core.domain.units import format_size
from aima_core.errors import AimaError, BodyTooLarge, ForeignRequest, Unauthorized, UnsafeBind, WrongContentType
from aima_core.settings import ApiSettings
from aima_core.system.loopback import is_loopback

MAX_BODY: ByteSize = ByteSize(1 << 20)
OPEN_PATHS = ("/healthz", "/readyz", "/docs", "/openapi.json")
"""Polled by load balancers, or opened in a browser, which have no key; the description of the API names no host."""
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


def check_bind(settings: ApiSettings) -> None:
    """Raises UnsafeBind if the API would be reachable from the network without a key."""
    if not settings.keys and not is_loopback(settings.bind):
        raise UnsafeBind(address=settings.bind)


class AuthMiddleware:
    """An ASGI middleware that answers a refused request itself, with a problem document."""

    def __init__(self, app: ASGIApp, *, settings: ApiSettings) -> None:
        self._app = app
        self._keys = [_digest(key.get_secret_value()) for key in settings.keys]
        self._loopback_only = is_loopback(settings.bind)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            self._check_origin(headers, scope["method"])
            self._check_key(headers, scope["path"])
            if scope["method"] not in _SAFE_METHODS:
                receive = await _checked_body(headers, receive)
        except ClientDisconnect:
            return
        except AimaError as refusal:
            await problem(refusal, instance=scope["path"])(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _check_origin(self, headers: Headers, method: str) -> None:
        host = headers.get("host", "")
        if self._loopback_only and not is_loopback(_without_port(host)):
            raise ForeignRequest(what=f"the host {host[:200]!r}")
        origin = headers.get("origin")
        if method not in _SAFE_METHODS and origin is not None and origin.partition("://")[2] != host:
            raise ForeignRequest(what=f"the origin {origin[:200]!r}")

    def _check_key(self, headers: Headers, path: str) -> None:
        if not self._keys or path in OPEN_PATHS:
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthorized(what="none")
        # Compares with every key, each in constant time: the duration reveals nothing of a key.
        if not sum(hmac.compare_digest(_digest(key.strip()), known) for known in self._keys):
            raise Unauthorized(what="another")


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
        raise WrongContentType(given=repr(given[:100]) if given else "of no stated type")
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()


def _digest(key: str) -> bytes:
    return sha256(key.encode()).digest()
