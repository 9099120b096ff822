"""An engine behind `ssh://`: one `ssh … docker system dial-stdio` per connection, at the end of a real socket.

The library's own way either wants another SSH implementation, which knows less of the user's configuration, or reads
from a pipe that keeps no time limit and cannot be cut off.
"""

from __future__ import annotations

import socket
import subprocess
from typing import Any
from urllib.parse import urlsplit

from docker import APIClient
from docker.constants import MINIMUM_DOCKER_API_VERSION
from docker.transport.unixconn import UnixHTTPAdapter, UnixHTTPConnectionPool
from urllib3.connection import HTTPConnection


def ssh_client(address: str, *, timeout: float, connections: int) -> APIClient:
    """A client that speaks through ssh, in the version of the API that the engine has."""
    # The Unix address keeps the constructor from anything but the adapter, which is replaced before the first call.
    client = APIClient("unix:///ssh", version=MINIMUM_DOCKER_API_VERSION, timeout=int(timeout))
    client.mount("http+docker://", _SshAdapter(address, timeout=timeout, max_pool_size=connections))
    client._version = str(client.version(api_version=False)["ApiVersion"])  # type: ignore[attr-defined]  # as its constructor does
    return client


def ssh_command(address: str) -> list[str]:
    """What reaches the engine at `ssh://[user@]host[:port]`."""
    at = urlsplit(address)
    port = ["-p", str(at.port)] if at.port else []
    user = ["-l", at.username] if at.username else []
    return ["ssh", "-o", "BatchMode=yes", *port, *user, "--", at.hostname or "", "docker", "system", "dial-stdio"]


class _SshSocket(socket.socket):
    """Our end of the pair; closing it ends the ssh at the other end."""

    program: subprocess.Popen[bytes] | None = None

    def _real_close(self, *args: Any) -> None:
        super()._real_close(*args)  # type: ignore[misc]  # the one place that every way of closing passes
        if self.program is not None:
            self.program.kill()
            self.program.wait()
            self.program = None


class _SshConnection(HTTPConnection):
    def __init__(self, address: str, timeout: Any) -> None:
        super().__init__("localhost", timeout=timeout)
        self._address = address

    def connect(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            sock = _SshSocket(fileno=ours.detach())
            try:
                sock.program = subprocess.Popen(
                    ssh_command(self._address), stdin=theirs.fileno(), stdout=theirs.fileno()
                )
            except OSError:
                sock.close()
                raise
        sock.settimeout(self.timeout)
        self.sock = sock


class _SshPool(UnixHTTPConnectionPool):
    def _new_conn(self) -> HTTPConnection:
        return _SshConnection(self.socket_path, self.timeout)


class _SshAdapter(UnixHTTPAdapter):
    def __init__(self, address: str, **settings: Any) -> None:
        super().__init__("http+unix://", **settings)
        self._address = address

    def get_connection(self, url: Any, proxies: Any = None) -> Any:  # noqa: ARG002 the library passes them
        with self.pools.lock:
            if (pool := self.pools.get(url)) is None:
                pool = self.pools[url] = _SshPool(url, self._address, self.timeout, maxsize=self.max_pool_size)
            return pool
