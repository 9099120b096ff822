"""HTTP client of the API: requests, pages and event streams; each failure is an ApiError or ApiUnavailable.

A request is never retried, since a lost reply may follow its execution: a POST carries an Idempotency-Key for that.
Built on http.client, without pydantic at import, since a listing must not cost more than ten times Python's own start.
"""

from __future__ import annotations

import json
import re
import ssl
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from select import POLLIN, poll
from socket import SHUT_RDWR, socket
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self, TypeVar
from urllib.parse import SplitResult, quote, urlencode, urlsplit

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel

    from aima_core.errors import AimaError, Failure

REPLY_TIMEOUT = timedelta(seconds=30)
CONNECT_TIMEOUT = timedelta(seconds=5)
STREAM_TIMEOUT = timedelta(seconds=45)
"""A stream without a byte for three heartbeats is dead."""
PAGE = 1000
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
"""What OpenSSL reports of a plain HTTP server."""
_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python does not name."""

Record = TypeVar("Record", bound="BaseModel")
Headers = Mapping[str, str]


class ApiError(Exception):
    """The API replied with a failure."""

    def __init__(self, failure: Failure, *, status: int) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.transient = status >= 500 or status == 429
        """The same request may succeed later."""


class ServerSentEvent(NamedTuple):
    event: str
    data: str
    id: str = ""

    def json(self) -> Any:
        return json.loads(self.data)


class Api:
    """Thread-safe: a connection serves one request or stream at a time."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        tls: ssl.SSLContext | None = None,
        reply_timeout: timedelta = REPLY_TIMEOUT,
    ) -> None:
        """`tls` verifies the server of an https URL; the system's authorities do by default.

        Raises ApiUnavailable if the URL is not an HTTP URL, Unauthorized if no API can have such a key.
        """
        self.url = url.rstrip("/")
        self._reply_timeout = reply_timeout
        self._connect_timeout = min(reply_timeout, CONNECT_TIMEOUT)
        self._parts = self._parse(self.url)
        self._tls = tls or (verifying() if self._parts.scheme == "https" else None)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        if key and not (key.isascii() and key.isprintable()):
            from aima_core.errors import Unauthorized

            raise Unauthorized(what="an AIMA_KEY with a line break or a character outside of ASCII")
        self._idle: list[HTTPConnection] = []
        self._streams: set[socket] = set()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Also shuts down the streams that other threads may be reading."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
        for stream in list(self._streams):
            with suppress(OSError):
                stream.shutdown(SHUT_RDWR)

    def get(self, path: str, **filters: object) -> Any:
        given = {name: str(value) for name, value in filters.items() if value is not None}
        return self._request("GET", f"{path}?{urlencode(given)}" if given else path)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
        return self._request("POST", path, content=json.dumps(dict(body or {})).encode(), headers=headers)

    def patch(self, path: str, changes: Mapping[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        return self._request("PATCH", path, content=json.dumps(dict(changes)).encode(), headers=headers)

    def put(self, path: str, content: Mapping[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        return self._request("PUT", path, content=json.dumps(dict(content)).encode(), headers=headers)

    def delete(self, path: str) -> None:
        self._request("DELETE", path)

    def every(self, path: str, *, at_most: int | None = None, **filters: object) -> list[dict[str, Any]]:
        """The items of a listing, page by page."""
        items: list[dict[str, Any]] = []
        cursor = None
        while at_most is None or len(items) < at_most:
            size = PAGE if at_most is None else min(PAGE, at_most - len(items))
            page = self.get(path, limit=size, cursor=cursor, **filters)
            items += page["items"]
            cursor = page.get("next")
            if not cursor:
                break
        return items[:at_most]

    @contextmanager
    def stream(self, path: str, *, after: int | str) -> Iterator[Iterator[ServerSentEvent]]:
        """Server-sent events after the one with this id, until the API ends them. A cut raises ApiUnavailable."""
        headers = {"Last-Event-ID": str(after)} if after else None
        with self._failures_translated():
            connection = self._connect(STREAM_TIMEOUT)
            stream = connection.sock
            self._streams.add(stream)
            try:
                response = self._send(connection, "GET", path, None, headers)
                if response.status >= 300:
                    self._raise_refusal(response, response.read())
                yield events_of(response)
            finally:
                self._streams.discard(stream)
                connection.close()

    def read(self, model: type[Record], data: object) -> Record:
        """A reply as one of AIMA's types. Raises ApiUnavailable if this version cannot read it."""
        from pydantic import ValidationError

        try:
            return model.model_validate(data)
        except ValidationError as wrong:
            detail = f"its replies are of a version that this one cannot read ({wrong.errors()[0]['msg']})"
            raise self._unavailable(detail) from wrong

    def _request(self, method: str, path: str, *, content: bytes | None = None, headers: Headers | None = None) -> Any:
        with self._failures_translated():
            connection = self._idle_connection() or self._connect(self._reply_timeout)
            response = self._send(connection, method, path, content, headers)
            reply = response.read()
            self._idle.append(connection)
            if response.status >= 300:
                self._raise_refusal(response, reply)
            return json.loads(reply) if reply else None

    def _send(
        self, connection: HTTPConnection, method: str, path: str, content: bytes | None, headers: Headers | None
    ) -> HTTPResponse:
        connection.request(method, self._parts.path + path, content, {**self._headers, **(headers or {})})
        return connection.getresponse()

    def _connect(self, timeout: timedelta) -> HTTPConnection:
        if self._closed:
            raise RuntimeError("the client is closed")  # not ApiUnavailable, after which a stream would be resumed
        host, port, limit = self._parts.hostname or "", self._parts.port, self._connect_timeout.total_seconds()
        connection = HTTPConnection(host, port, timeout=limit)
        if self._parts.scheme == "https":
            connection = HTTPSConnection(host, port, timeout=limit, context=self._tls)
        try:
            connection.connect()
        except TimeoutError as late:
            raise self._unavailable(f"no connection within {self._connect_timeout.total_seconds():g} s") from late
        connection.sock.settimeout(timeout.total_seconds())
        return connection

    def _idle_connection(self) -> HTTPConnection | None:
        """A kept connection, unless it is stale: one that the API has closed is readable."""
        while self._idle:
            connection = self._idle.pop()
            if connection.sock is not None:
                poller = poll()
                poller.register(connection.sock, POLLIN)
                if not poller.poll(0):
                    return connection
            connection.close()
        return None

    def _raise_refusal(self, response: HTTPResponse, content: bytes) -> NoReturn:
        """Raises the API's own failure, or ApiUnavailable if no AIMA API sent this."""
        from aima_core.errors import Failure

        try:
            problem = json.loads(content)
            tail = tuple(problem.get("log_tail") or ())
            failure = Failure(code=problem["code"], message=problem["detail"], hint=problem["hint"], log_tail=tail)
        except (ValueError, KeyError, TypeError) as wrong:
            detail = f"the server there is not an AIMA API (it replied {response.status} {response.reason})"
            raise self._unavailable(detail) from wrong
        raise ApiError(failure, status=response.status)

    @contextmanager
    def _failures_translated(self) -> Iterator[None]:
        try:
            yield
        except (json.JSONDecodeError, UnicodeDecodeError) as wrong:
            raise self._unavailable("the server there is not an AIMA API (its reply is not JSON)") from wrong
        except TimeoutError as late:
            raise self._unavailable("no reply in time") from late
        except IncompleteRead as cut:
            raise self._unavailable("the connection was closed") from cut
        except ssl.SSLCertVerificationError as wrong:
            from aima_core.errors import UntrustedCertificate

            raise UntrustedCertificate(url=self.url, detail=wrong.verify_message.rstrip(".")) from wrong
        except (OSError, HTTPException) as wrong:
            if isinstance(wrong, ssl.SSLError) and wrong.reason in _NO_TLS:
                raise self._unavailable(f"it does not use TLS; write http://{self._parts.netloc}") from wrong
            raise self._unavailable(re.sub(r"^\[Errno -?\d+\] ", "", str(wrong)) or type(wrong).__name__) from wrong

    def _unavailable(self, detail: str) -> AimaError:
        from aima_core.errors import ApiUnavailable

        return ApiUnavailable(url=self.url, detail=detail)

    def _parse(self, url: str) -> SplitResult:
        """Its path stands before every request's own."""
        if "://" not in url:
            raise self._unavailable(f"that is not a URL; write http://{url}")
        try:
            parts = urlsplit(url)
            _ = parts.port  # raises if it is no number
        except ValueError as wrong:
            raise self._unavailable(f"that is not a URL ({wrong})") from wrong
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise self._unavailable("that is not an HTTP URL; it looks like http://127.0.0.1:7080")
        return parts


def verifying(ca: str | None = None) -> ssl.SSLContext:
    """A context that verifies with the authorities in that file only, by default with the system's.

    Raises BadSettings if there are none.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as wrong:
        from aima_core.errors import BadSettings

        detail = f"{ca} has no certificates in PEM form ({wrong.strerror or wrong})."
        raise BadSettings(detail=detail, where="`--ca` or AIMA_CA, such as /etc/aima/ca.crt") from wrong
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def pinning(certificate: Path) -> ssl.SSLContext:
    """A context for a node that this process has started itself: it accepts this certificate only, under any name."""
    context = verifying(str(certificate))
    context.check_hostname = False
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    return context


def path_of(*words: str) -> str:
    """`/v1/…` with each word quoted."""
    return "/v1/" + "/".join(quote(word, safe=":@") for word in words)


def events_of(response: HTTPResponse) -> Iterator[ServerSentEvent]:
    name, data, id = "message", list[str](), ""
    for line in _lines(response):
        field, _, value = line.partition(":")
        if not line and data:
            yield ServerSentEvent(name, "\n".join(data), id)
        if not line:
            name, data = "message", []
        elif field == "id":
            id = value.removeprefix(" ")
        elif field == "event":
            name = value.removeprefix(" ")
        elif field == "data":
            data.append(value.removeprefix(" "))


def _lines(response: HTTPResponse) -> Iterator[str]:
    """By read1, which raises IncompleteRead for a cut connection; readline would end as though the API had ended it."""
    rest = b""
    while chunk := response.read1(1 << 16):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r").decode("utf-8", "replace")
