"""Streaming responses of the engine: a pull, the events of containers, a log; each on a connection of its own.

Any thread can close one at any moment and release its descriptor: the library's streams cannot be closed while they
are blocked, or leave the descriptor to the garbage collector. A stream ends in the same way when the engine has
finished and when it crashed, so the caller must verify the result.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from http.client import HTTPException
from threading import Lock
from typing import Any

from docker import auth
from docker.errors import DockerException
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.response import HTTPResponse

from aima_core.errors import ImageNotFound, RegistryDenied
from aima_core.logs.dedup import StreamName
from aima_worker.runtimes.docker.errors import EngineError, engine_refused
from aima_worker.runtimes.docker.logs import Frame, LogQuery
from aima_worker.runtimes.docker.parsing import ImageName, container_changed, image_name
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

        Raises EngineError, DockerUnavailable, or TimeoutError if no response begins `within` seconds.
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
            raise EngineError(_message(answer.read()), status=answer.status)
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


class EngineChanges:
    """A ChangeStream. Iterated by one thread, closed by any."""

    def __init__(self, engine: EngineClient, labels: Mapping[str, str]) -> None:
        filters = {
            "type": ["container"],
            "event": EVENTS,
            "label": [f"{name}={value}" for name, value in labels.items()],
        }
        self._stream = EngineStream(engine, "GET", "/events", params={"filters": json.dumps(filters)})

    def __iter__(self) -> Iterator[str]:
        try:
            yield from map(container_changed, self._stream.lines(within=lambda: None))
        except EngineError as refused:
            raise engine_refused(refused.words) from refused
        finally:
            self._stream.close()

    def close(self) -> None:
        self._stream.close()


class EnginePull:
    """PullMessages of the engine's API."""

    def __init__(self, engine: EngineClient, image: str) -> None:
        name = _named(image)
        self._stream = EngineStream(
            engine,
            "POST",
            "/images/create",
            # Without a platform, the engine pulls for its own.
            params={"fromImage": name.repository, "tag": name.version},
            headers=_credentials(image, name.registry),
        )

    @property
    def closed(self) -> bool:
        return self._stream.closed

    def read(self, *, patience: Callable[[], float]) -> Iterator[Mapping[str, Any]]:
        yield from map(json.loads, self._stream.lines(within=patience))

    def close(self) -> None:
        self._stream.close()


def _named(image: str) -> ImageName:
    try:
        return image_name(image)
    except ValueError as bad:
        raise ImageNotFound(image=image, detail=str(bad)) from bad


def _credentials(image: str, registry: str) -> dict[str, str]:
    """From Docker's configuration and its helpers, without a cache: a `docker login` takes effect at the next pull."""
    try:
        found = auth.load_config().resolve_authconfig(registry)
    except DockerException as failed:
        raise RegistryDenied(
            image=image, detail=f"the host's credentials for the registry cannot be read: {failed}"
        ) from failed
    return {"X-Registry-Auth": auth.encode_header(found).decode()} if found else {}


_HEADER = struct.Struct(">BxxxL")
_STREAMS: dict[int, StreamName] = {1: "stdout", 2: "stderr"}


class EngineFrames:
    """LogFrames of the engine's API: parses its multiplexed stream."""

    def __init__(self, engine: EngineClient, query: LogQuery) -> None:
        self._engine = engine
        self._follow = query.follow
        self._stream = EngineStream(engine, "GET", f"/containers/{query.container}/logs", params=_params(query))

    def __iter__(self) -> Iterator[Frame]:
        buffer = bytearray()
        for chunk in self._chunks():
            buffer += chunk
            start = 0
            while len(buffer) - start >= _HEADER.size:
                kind, length = _HEADER.unpack_from(buffer, start)
                end = start + _HEADER.size + length
                if len(buffer) < end:
                    break
                at, _, data = bytes(buffer[start + _HEADER.size : end]).partition(b" ")
                yield Frame(_STREAMS.get(kind, "stdout"), at.decode(), data)
                start = end
            del buffer[:start]

    def close(self) -> None:
        self._stream.close()

    def _chunks(self) -> Iterator[bytes]:
        try:
            self._stream.open(within=self._engine.timeout)
            while chunk := self._stream.next(within=None if self._follow else self._engine.timeout):
                yield chunk
        except EngineError as refused:
            if refused.status not in (404, 409):
                raise engine_refused(refused.words) from refused
        except TimeoutError as late:
            raise self._engine.unavailable("its log timed out") from late


def _params(query: LogQuery) -> dict[str, str]:
    params = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": "1" if query.follow else "0"}
    if query.tail is not None:
        params["tail"] = str(query.tail)
    if query.since is not None:
        params["since"] = query.since
    return params
