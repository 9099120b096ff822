"""Bounded HTTP requests to engines, which are not trusted: one deadline for each, and a limit of its response's size.

The deadline holds for all of a request, however few bytes arrive at a time: each read gets only the time that is left.
"""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Response:
    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


@dataclass(frozen=True)
class Request:
    url: str
    body: bytes | None = None
    """None is a GET, else a POST."""
    content_type: str = "application/json"


Ask = Callable[[Request, timedelta, int], Response]
"""A request, its deadline, and the limit of its response's body in bytes. Raises OSError."""


def ask(request: Request, within: timedelta, at_most: int) -> Response:
    """Returns the response; with an `at_most` of 0 the body is not read.

    Raises OSError if the response is not complete in time, is no HTTP, or has a larger body.
    """
    parts = urlsplit(request.url)
    connection = _Connection(parts.hostname or "", parts.port or 80, within=within)
    headers = {"Content-Type": request.content_type} if request.body is not None else {}
    try:
        connection.request("POST" if request.body is not None else "GET", parts.path or "/", request.body, headers)
        response = connection.getresponse()
        body = response.read(at_most + 1) if at_most else b""
        if at_most and response.length and len(body) <= at_most:
            raise OSError("the connection ended within the answer")
    except HTTPException as broken:
        raise OSError(str(broken) or type(broken).__name__) from broken
    finally:
        connection.close()
    if len(body) > at_most:
        raise OSError(f"the answer is larger than {at_most} bytes")
    return Response(response.status, body)


class _Connection(HTTPConnection):
    def __init__(self, host: str, port: int, *, within: timedelta) -> None:
        super().__init__(host, port, timeout=within.total_seconds())
        self._deadline = time.monotonic() + within.total_seconds()

    def connect(self) -> None:
        connected = socket.create_connection((self.host, self.port), self.timeout)
        self.sock = _DeadlineSocket(self._deadline, connected)


class _DeadlineSocket(socket.socket):
    def __init__(self, deadline: float, connected: socket.socket) -> None:
        super().__init__(connected.family, connected.type, connected.proto, fileno=connected.detach())
        self._deadline = deadline

    def recv_into(self, *words: Any) -> int:
        self._limit()
        return super().recv_into(*words)

    def sendall(self, *words: Any) -> None:
        self._limit()
        super().sendall(*words)

    def _limit(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self.settimeout(left)
