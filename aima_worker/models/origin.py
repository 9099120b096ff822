"""Ranged downloads from the origin of a model, with retries until the stall timeout.

An interruption (a broken or silent connection, a short body, 429, a status above 500) is retried with backoff while
bytes arrive within the stall timeout, which `Retry-After` extends. Other answers are not retried: they fail the fetch
at once, with the remedy. The token is sent to the host of the first URL only, and without TLS to this machine only.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from math import inf
from pathlib import Path
from threading import Event as Flag
from threading import Lock
from typing import NamedTuple, Self
from urllib.parse import SplitResult, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from aima_core.domain.models import ManifestFile
from aima_core.domain.units import format_duration
from aima_core.errors import Cancelled, FetchStalled, OriginUnreachable, SourceChanged, SourceDenied, SourceUnknown
from aima_core.system.loopback import is_loopback

SILENCE = timedelta(seconds=20)
"""The timeout of one connection without a byte, before a retry on a new one."""
CHUNK = 256 << 10
LOW_WATER_MARK = 128 << 10
"""Bytes that must have arrived on a fast connection before its thread is woken."""
FAST_CHUNK = timedelta(seconds=0.5)
"""A connection is fast while a chunk takes less."""
MOST_REDIRECTS = 5
MOST_RETRY_AFTER = timedelta(hours=1)
RETRY_DELAYS = tuple(map(timedelta, (0,) * 5, (0, 0.2, 1, 3, 5)))
_REDIRECTS = {301, 302, 303, 307, 308}
_GONE = {404, 410}
_BROKEN = (OSError, HTTPException, ValueError)
"""ValueError is what a response raises whose connection another thread has shut down."""


class Interrupted(Exception):
    """A retry can continue the download at its byte."""

    def __init__(self, why: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.retry_after = retry_after


class NoRanges(Exception):
    """The origin sends the whole file, whatever range it is asked for."""


class RemoteFile(NamedTuple):
    """One file at the origin."""

    model: str
    file: ManifestFile
    url: str

    @property
    def origin(self) -> str:
        return urlsplit(self.url).netloc


class Patience:
    """The stall timeout and the backoff of a fetch, shared by its threads."""

    def __init__(
        self, model: str, *, host: str, stall: timedelta, stop: Flag, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._model, self._host = model, host
        self._stall = stall
        self._stop = stop
        self._clock = clock
        self._until = clock() + stall.total_seconds()
        self._not_before = float("-inf")
        self._tries = 0
        self._why = ""
        self._lock = Lock()

    @property
    def waits_for(self) -> str | None:
        """Why nothing arrives and a retry is due; None while bytes arrive."""
        with self._lock:
            return self._why if self._tries > 1 or self._clock() < self._not_before else None

    @property
    def has_expired(self) -> bool:
        """No byte has arrived within the stall timeout."""
        with self._lock:
            return self._clock() >= self._until

    def moved(self) -> None:
        """A new byte has arrived: resets the stall timeout and the backoff."""
        with self._lock:
            self._tries = 0
            self._until = max(self._until, self._clock() + self._stall.total_seconds())

    def hold(self) -> None:
        """Before a request: throttles all threads until the end of `Retry-After`. Raises Cancelled."""
        with self._lock:
            left = self._not_before - self._clock()
        if left > 0 and self._stop.wait(left):
            raise Cancelled

    def wait(self, interrupted: Interrupted, *, origin: str) -> None:
        """Sleeps before a retry. Raises FetchStalled after the stall timeout, Cancelled if the fetch is closed."""
        with self._lock:
            at, asked = self._clock(), min(interrupted.retry_after or timedelta(), MOST_RETRY_AFTER)
            delay = RETRY_DELAYS[min(self._tries, len(RETRY_DELAYS) - 1)].total_seconds()
            self._tries += 1
            self._why = f"{origin}: {interrupted.why}"
            if asked:
                self._why += f"; it asks to wait {format_duration(asked)}"
                self._not_before = max(self._not_before, at + asked.total_seconds())
                self._until = max(self._until, self._not_before + self._stall.total_seconds())
            left = self._until - at
        if left <= 0:
            why = f"{origin}: {interrupted.why}."
            stall = format_duration(self._stall)
            raise FetchStalled(model=self._model, host=self._host, origin=origin, stall=stall, why=why)
        if self._stop.wait(min(delay, left)):
            raise Cancelled


class OriginClient:
    """The connections of one thread to an origin. `abort` may be called from another."""

    def __init__(self, *, host: str, token: str | None, stall: timedelta, ca: Path | None = None) -> None:
        """`ca` replaces the system's authorities."""
        self._host = host
        self._token = token
        self._ca = ca
        self._timeout = min(SILENCE, stall).total_seconds()
        self._connections: dict[tuple[str, str], HTTPConnection] = {}
        self._direct: dict[str, str] = {}
        """A cache of redirects, such as to signed URLs of a content network, until these expire."""
        self._context: ssl.SSLContext | None = None
        self._buffer = memoryview(bytearray(CHUNK))
        """Reused: for a new one of this size, the kernel clears its pages each time."""
        self._plain: socket.socket | None = None
        """The connection of the last response, if it is not encrypted."""
        self._aborted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def abort(self) -> None:
        """Shuts down its connections: a read that is blocked in another thread ends."""
        self._aborted = True
        for connection in list(self._connections.values()):
            if (opened := connection.sock) is not None:  # its own thread may close it meanwhile
                with suppress(OSError):
                    socket.socket.shutdown(opened, socket.SHUT_RDWR)  # below TLS: no thread waits for a lock

    def read(self, target: RemoteFile, start: int, length: int) -> Iterator[memoryview]:
        """The bytes of a range; each chunk is valid until the next. Raises Interrupted, NoRanges, and as `_checked`."""
        whole = start == 0 and length == target.file.size
        headers = {} if whole else {"Range": f"bytes={start}-{start + length - 1}"}
        with self._interrupting():
            response = self._checked(target, self._request(target, headers))
            if response.status == 200:
                _check_size(target, response.getheader("Content-Length"))
                if not whole:
                    self._close()  # else the rest of the file would have to be read
                    raise NoRanges
            else:
                _check_range(target, response.getheader("Content-Range"), start, length)
            yield from self._body(response, length)

    def read_on(self, target: RemoteFile, start: int, length: int, patience: Patience) -> Iterator[memoryview]:
        """The same with retries, each from the next byte. Raises FetchStalled and Cancelled, too."""
        at, end = start, start + length
        while at < end:
            patience.hold()
            try:
                for chunk in self.read(target, at, end - at):
                    at += len(chunk)
                    yield chunk
            except Interrupted as broken:
                patience.wait(broken, origin=target.origin)

    def read_blocks(self, target: RemoteFile, size: int, patience: Patience) -> Iterator[tuple[int, bytes]]:
        """The file in blocks of `size` with their positions; a retry restarts at the beginning.

        Raises FetchStalled, Cancelled, and as `_checked` does.
        """
        while True:
            patience.hold()
            block, at = bytearray(), 0
            try:
                for chunk in self.read(target, 0, target.file.size):
                    block += chunk
                    while len(block) >= size or (block and at + len(block) == target.file.size):
                        yield at, bytes(block[:size])
                        at += min(size, len(block))
                        del block[:size]
                return
            except Interrupted as broken:
                patience.wait(broken, origin=target.origin)

    def _body(self, response: HTTPResponse, length: int) -> Iterator[memoryview]:
        left, at, coalesces = length, -inf, False
        while left:
            before, at = at, time.monotonic()
            if self._plain is not None and coalesces != (left > 2 * CHUNK and at - before < FAST_CHUNK.total_seconds()):
                coalesces = not coalesces
                self._plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, LOW_WATER_MARK if coalesces else 1)
            read = response.readinto(self._buffer[: min(CHUNK, left)])
            if not read:
                self._close()
                raise Interrupted(f"it ended {left} bytes early")
            left -= read
            yield self._buffer[:read]
        if response.length != 0:
            self._close()  # more than was asked for, or of unknown length: nothing further of it is read

    def _request(self, target: RemoteFile, headers: dict[str, str]) -> HTTPResponse:
        direct = self._direct.get(target.url)
        response = self._get(direct or target.url, target, headers)
        if direct and response.status in (401, 403, 404, 410):  # a signed URL has expired
            self._close()
            del self._direct[target.url]
            response = self._get(target.url, target, headers)
        url = self._direct.get(target.url, target.url)
        for _ in range(MOST_REDIRECTS):
            if response.status not in _REDIRECTS:
                return response
            url = self._followed(target, url, response)
            response = self._get(url, target, headers)
            self._direct[target.url] = url
        raise OriginUnreachable(origin=target.origin, detail="it redirects in a circle.", where=self._host)

    def _followed(self, target: RemoteFile, url: str, response: HTTPResponse) -> str:
        there = urljoin(url, response.getheader("Location") or "")
        response.read(CHUNK)
        self._close()
        scheme, before = urlsplit(there).scheme, urlsplit(url).scheme
        if scheme not in ("https", "http") or (scheme == "http" and before == "https"):
            detail = f"it redirects to {there[:200]!r}, which is not encrypted."
            raise OriginUnreachable(origin=target.origin, detail=detail, where=self._host)
        return there

    def _get(self, url: str, target: RemoteFile, headers: dict[str, str]) -> HTTPResponse:
        if self._aborted:
            raise Interrupted("the fetch is cancelled")
        where = urlsplit(url)
        own = {"Accept-Encoding": "identity", "User-Agent": "aima", **headers, **self._authorization(where, target)}
        connection, absolute = self._connection(where)
        path = url.partition("#")[0] if absolute else (where.path or "/") + (f"?{where.query}" if where.query else "")
        connection.request("GET", path, headers=own)
        response = connection.getresponse()
        self._plain = connection.sock if type(connection.sock) is socket.socket else None
        return response

    def _authorization(self, where: SplitResult, target: RemoteFile) -> dict[str, str]:
        first = urlsplit(target.url)
        if self._token is None or (where.scheme, where.netloc) != (first.scheme, first.netloc):
            return {}
        if where.scheme != "https" and not is_loopback(where.hostname or ""):
            detail = "its URL is not encrypted, and the token is sent over TLS only."
            remedy = "Use a mirror with TLS, or take `token` out of the model's file if the mirror needs none."
            raise SourceDenied(origin=target.origin, what=target.file.path, detail=detail, remedy=remedy)
        return {"Authorization": f"Bearer {self._token}"}

    def _connection(self, where: SplitResult) -> tuple[HTTPConnection, bool]:
        """The kept one or a new one, and whether it leads to a proxy that wants absolute URLs."""
        proxy = self._proxy(where)
        absolute = proxy is not None and where.scheme == "http"
        key = (where.scheme, where.netloc)
        if (known := self._connections.get(key)) is not None:
            return known, absolute
        host, port = where.hostname or "", where.port
        if proxy is not None:
            host, port = proxy.hostname or "", proxy.port or 80
        if where.scheme == "https":
            self._context = self._context or ssl.create_default_context(cafile=self._ca)
            made: HTTPConnection = HTTPSConnection(host, port, timeout=self._timeout, context=self._context)
        else:
            made = HTTPConnection(host, port, timeout=self._timeout)
        if proxy is not None and not absolute:
            made.set_tunnel(where.hostname or "", where.port or 443)
        self._connections[key] = made
        return made, absolute

    def _proxy(self, where: SplitResult) -> SplitResult | None:
        proxy = getproxies().get(where.scheme)
        if not proxy or is_loopback(where.hostname or "") or proxy_bypass(where.netloc):
            return None
        return urlsplit(proxy if "//" in proxy else f"http://{proxy}")

    def _checked(self, target: RemoteFile, response: HTTPResponse) -> HTTPResponse:
        """Raises SourceDenied, SourceUnknown, SourceChanged, OriginUnreachable, Interrupted."""
        status, origin, what = response.status, target.origin, target.file.path
        if status in (200, 206):
            return response
        said = response.read(300).decode(errors="replace").strip().splitlines()
        self._close()
        detail = f"{status} {response.reason}{f': {said[0][:120]}' if said else ''}"
        if status in (401, 403):
            raise SourceDenied(origin=origin, what=what, detail=f"{detail}.", remedy=self._remedy())
        if status in _GONE:
            raise SourceUnknown(origin=origin, what=f"{what} at this revision any longer", model=target.model)
        if status == 416:
            raise SourceChanged(origin=origin, file=what, detail="it is shorter", model=target.model)
        if status == 429 or status >= 500:
            raise Interrupted(detail, retry_after=_retry_after(response.getheader("Retry-After")))
        raise OriginUnreachable(origin=origin, detail=f"it answers {detail}.", where=self._host)

    def _remedy(self) -> str:
        if self._token is None:
            return "If it is gated, accept its terms there, and name the secret with your token as the model's `token`."
        return f"Accept its terms with the account of the token, and check the entry in the secrets of {self._host}."

    def _interrupting(self) -> _Interrupting:
        return _Interrupting(self._close)

    def _close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()


class _Interrupting:
    """Turns errors of a connection into an interruption, and closes the connection."""

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, _BROKEN) and not isinstance(error, Interrupted):
            self._close()
            why = "it sends nothing" if isinstance(error, TimeoutError) else str(error) or kind.__name__ if kind else ""
            raise Interrupted(why) from error
        if error is not None and not isinstance(error, Interrupted | NoRanges):
            self._close()


def _check_size(target: RemoteFile, length: str | None) -> None:
    if length is not None and length != str(target.file.size):
        detail = f"it has {length} bytes instead of {target.file.size}"
        raise SourceChanged(origin=target.origin, file=target.file.path, detail=detail, model=target.model)


def _check_range(target: RemoteFile, found: str | None, start: int, length: int) -> None:
    """Raises SourceChanged, Interrupted."""
    range, _, total = (found or "").removeprefix("bytes ").partition("/")
    if total not in ("*", ""):
        _check_size(target, total)
    if range.partition("-")[0] != str(start):
        asked = f"bytes {start}-{start + length - 1} were requested"
        raise Interrupted(f"it answers with the range {found!r} where {asked}")


def _retry_after(header: str | None) -> timedelta | None:
    """Of a number of seconds; a date would depend on two clocks."""
    return timedelta(seconds=int(header)) if header and header.isdigit() and len(header) < 7 else None
