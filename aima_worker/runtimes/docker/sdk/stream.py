"""Streaming responses of the engine, each on a connection of its own, which any thread can close at any moment.

The library's streams cannot be closed while they are blocked. A stream ends in the same way when the engine has
finished and when it crashed, so the caller must verify the result.
"""

import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from http.client import HTTPException
from threading import Lock

from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.response import HTTPResponse

from aima_worker.runtimes.docker.parsing import engine_refused
from aima_worker.runtimes.docker.sdk.client import EngineClient

CONNECT_TIMEOUT = timedelta(seconds=5)
CHUNK = 64 * 1024
EVENTS = ("start", "die", "oom", "destroy", "rename", "pause", "unpause")
"""The container events that change what a listing says; not `create`, which a start follows, nor `exec_…`."""
_BROKEN = (HTTPError, HTTPException, OSError, ValueError, AttributeError)
"""Raised by a read that races with a close of the connection, by the engine or by another thread."""


class EngineStream:
    def __init__(
        self,
        engine: EngineClient,
        method: str,
        path: str,
        *,
        params: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.closed = False
        """Whether `close` was called; a stream that the engine has ended is not closed."""
        self._engine = engine
        self._request = (method, path, params, headers or {})
        self._reading = Lock()
        self._connection: HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._chunks: Iterator[bytes] = iter(())

    def open(self, *, within: float | None) -> None:
        """Send the request, and return once the response has begun.

        Raises EngineRefused, DockerUnavailable, or TimeoutError if no response begins `within` seconds.
        """
        with self._reading:
            try:
                self._chunks = self._respond(within).stream(CHUNK)
            except TimeoutError:
                self._release()
                raise
            except _BROKEN as broken:
                self._release()
                if not self.closed:
                    raise self._engine.unavailable(broken) from broken
            except BaseException:
                self._release()
                raise

    def next(self, *, within: float | None) -> bytes:
        """The next bytes; empty at the end. Raises TimeoutError if none arrive `within` seconds."""
        with self._reading:
            if self.closed or self._socket is None:
                return b""
            try:
                self._socket.settimeout(within)
                chunk = next(self._chunks, b"")
            except (ReadTimeoutError, TimeoutError) as late:
                raise TimeoutError from late
            except _BROKEN:
                chunk = b""
            if not chunk:
                self._release()
            return chunk

    def lines(self, *, within: Callable[[], float | None]) -> Iterator[bytes]:
        """Opens the stream; each line of the response, with `within()` seconds as the timeout of each read."""
        self.open(within=within())
        rest = b""
        while chunk := self.next(within=within()):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line for line in lines if line.strip())

    def close(self) -> None:
        self.closed = True
        if (sock := self._socket) is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        # The reading thread is unblocked now. The lock prevents a race: no descriptor is released while it is read.
        with self._reading:
            self._release()

    def _respond(self, within: float | None) -> HTTPResponse:
        method, path, params, headers = self._request
        connection, target = self._engine.connection(method, path, params)
        self._connection = connection
        connection.timeout = CONNECT_TIMEOUT.total_seconds()
        connection.connect()
        self._socket = connection.sock
        if self.closed:
            raise ConnectionAbortedError("closed before it began")
        connection.timeout = within
        connection.request(method, target, headers=headers, preload_content=False)
        answer = connection.getresponse()
        if answer.status >= 400:
            raise engine_refused(_message(answer.read()), status=answer.status)
        return answer

    def _release(self) -> None:
        self._chunks = iter(())
        self._socket = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _message(body: bytes) -> str:
    with suppress(ValueError, TypeError, KeyError):
        return str(json.loads(body)["message"])
    return body.decode("utf-8", "replace").strip()


class EngineChanges(EngineStream):
    """A ChangeStream."""

    def __init__(self, engine: EngineClient, labels: Mapping[str, str]) -> None:
        wanted = [f"{name}={value}" for name, value in labels.items()]
        filters = {"type": ["container"], "event": EVENTS, "label": wanted}
        super().__init__(engine, "GET", "/events", params={"filters": json.dumps(filters)})

    def __iter__(self) -> Iterator[str]:
        try:
            for event in self.lines(within=lambda: None):
                yield json.loads(event)["Actor"]["Attributes"]["name"]
        finally:
            self.close()
