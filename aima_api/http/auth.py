"""Who may ask, and how much: bearer keys, hosts and origins, JSON bodies up to a cap. Before anything reads them.

A page in a browser can make it call an API on loopback: under a name of the page's own that leads there (refused by
the Host header), or across origins (refused by Origin, and by the content type that such a page cannot send unasked).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from hashlib import sha256

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aima_api.http.loopback import is_loopback
from aima_api.http.problems import problem
from aima_core.domain.units import format_size
from aima_core.errors import AimaError, BodyTooLarge, ForeignRequest, Unauthorized, UnsafeBind, WrongContentType
from aima_core.settings import ApiSettings

MOST_BODY = 1 << 20
"""Bytes."""
OPEN = ("/healthz", "/readyz")
"""Asked by balancers, which have no key."""
_READS = ("GET", "HEAD", "OPTIONS")


def check_bind(settings: ApiSettings) -> None:
    """Raises UnsafeBind where anybody on the network could command without a key."""
    if not settings.keys and not is_loopback(settings.bind):
        raise UnsafeBind(address=settings.bind)


class Access:
    """An ASGI layer that lets through what may be, and answers the rest."""

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
            self._check_names(headers, scope["method"])
            self._check_key(headers, scope["path"])
            if scope["method"] not in _READS:
                receive = await _read(headers, receive)
        except AimaError as refused:
            await problem(refused, instance=scope["path"])(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _check_names(self, headers: Headers, method: str) -> None:
        host = headers.get("host", "")
        if self._loopback_only and not is_loopback(_without_port(host)):
            raise ForeignRequest(what=f"the host {host[:200]!r}")
        origin = headers.get("origin")
        if method not in _READS and origin is not None and origin.partition("://")[2] != host:
            raise ForeignRequest(what=f"the origin {origin[:200]!r}")

    def _check_key(self, headers: Headers, path: str) -> None:
        if not self._keys or path in OPEN:
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthorized(what="none")
        if not _among(_digest(key.strip()), self._keys):
            raise Unauthorized(what="another")


async def _read(headers: Headers, receive: Receive) -> Receive:
    """The whole body, counted as it comes, and a `receive` that gives it again."""
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MOST_BODY:
            raise BodyTooLarge(limit=format_size(MOST_BODY))
    _check_content_type(headers, body)
    return _replayed(body, receive)


def _check_content_type(headers: Headers, body: bytes) -> None:
    given = headers.get("content-type", "")
    if body and given.partition(";")[0].strip().lower() != "application/json":
        raise WrongContentType(given=repr(given[:100]) if given else "of no stated type")


def _replayed(body: bytes, receive: Receive) -> Receive:
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


def _among(given: bytes, known: Iterable[bytes]) -> bool:
    """Compares with every key, each in constant time."""
    return sum(hmac.compare_digest(given, each) for each in known) > 0
