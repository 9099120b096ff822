"""Connections to an engine through `ssh` or the `docker` program, by its `system dial-stdio`, which copies bytes.

Closing a connection kills its program; if the worker crashes, the program ends at end of file. A program that does not
connect raises ConnectionError with its stderr.
"""

import os
import socket
import subprocess
from contextlib import suppress
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from docker import APIClient
from docker.constants import MINIMUM_DOCKER_API_VERSION
from docker.transport.unixconn import UnixHTTPAdapter, UnixHTTPConnectionPool
from urllib3.connection import HTTPConnection

_DIAL = ("docker", "system", "dial-stdio")
_COMPLAINT_LIMIT = 4096
_CONNECTIONS = 4
"""Most connections kept open between calls: each is a process. Concurrent calls open more."""
_URL = "http+docker://localhost"


def stdio_client(command: list[str], *, timeout: int) -> APIClient:
    """A client through the program, in the version of the API that the engine has."""
    # With this address the constructor connects to nothing, and its adapter is replaced before the first call.
    client = APIClient("unix:///stdio", version=MINIMUM_DOCKER_API_VERSION, timeout=timeout)
    client.mount("http+docker://", _StdioAdapter(command, timeout=timeout, max_pool_size=_CONNECTIONS))
    client._version = str(client.version(api_version=False)["ApiVersion"])  # type: ignore[attr-defined]  # as its constructor does
    return client


def ssh_command(address: str) -> list[str]:
    """The program that reaches the engine at `ssh://[user@]host[:port]`."""
    at = urlsplit(address)
    port = ["-p", str(at.port)] if at.port else []
    user = ["-l", at.username] if at.username else []
    return ["ssh", "-o", "BatchMode=yes", *port, *user, "--", at.hostname or "", *_DIAL]


def docker_command(address: str | None) -> list[str]:
    """The program that reaches the engine at `address`; with None, the engine of its own current context."""
    program, *dial = _DIAL
    return [program, *(["--host", address] if address else []), *dial]


class _StdioSocket(socket.socket):
    """This end of a socket pair. Closing it kills the program at the other end, from any thread."""

    program: subprocess.Popen[bytes] | None = None
    complaint = ""
    """What the program had printed on stderr when the connection was closed."""

    def _real_close(self, *args: Any) -> None:
        super()._real_close(*args)  # type: ignore[misc]  # every close ends here
        if (program := self.program) is not None:
            self.program = None
            program.kill()
            with program, suppress(BlockingIOError):  # never blocked: ssh may leave a process that holds the pipe
                assert program.stderr
                os.set_blocking(program.stderr.fileno(), False)
                self.complaint = os.read(program.stderr.fileno(), _COMPLAINT_LIMIT).decode("utf-8", "replace").strip()


class _StdioConnection(HTTPConnection):
    def __init__(self, command: list[str], timeout: Any) -> None:
        super().__init__("localhost", timeout=timeout)
        self._command = command

    def connect(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            sock = _StdioSocket(fileno=ours.detach())
            try:
                sock.program = subprocess.Popen(
                    self._command, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.PIPE
                )
            except OSError as missing:
                sock.close()
                raise ConnectionError(f"`{self._command[0]}` does not start: {missing.strerror}") from missing
        sock.settimeout(self.timeout)
        self.sock = sock

    def getresponse(self) -> Any:
        """Raises ConnectionError with the program's own words if it ended instead of connecting."""
        sock = self.sock
        try:
            return super().getresponse()
        except (HTTPException, ConnectionError) as broken:
            self.close()
            raise ConnectionError(getattr(sock, "complaint", "") or broken) from broken


class _StdioPool(UnixHTTPConnectionPool):
    def __init__(self, url: str, command: list[str], timeout: Any, maxsize: int) -> None:
        super().__init__(url, "", timeout, maxsize)
        self._command = command

    def _new_conn(self) -> HTTPConnection:
        return _StdioConnection(self._command, self.timeout)


class _StdioAdapter(UnixHTTPAdapter):
    def __init__(self, command: list[str], **settings: Any) -> None:
        super().__init__("http+unix://", **settings)
        self._command = command

    def get_connection(self, url: Any, proxies: Any = None) -> Any:  # noqa: ARG002 one pool whatever the URL
        with self.pools.lock:
            if (pool := self.pools.get(_URL)) is None:
                pool = self.pools[_URL] = _StdioPool(_URL, self._command, self.timeout, maxsize=self.max_pool_size)
            return pool
