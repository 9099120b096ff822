"""The one kept client to a Docker Engine, and the translation of everything that keeps it from answering.

Nothing is asked of the engine before the first call, and an engine that comes back is spoken to anew, in whatever
version of the API it has then. What the engine answers is the callers' to judge: APIError passes through.
"""

from __future__ import annotations

import math
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from docker import APIClient
from docker.constants import MINIMUM_DOCKER_API_VERSION
from docker.errors import APIError, DockerException
from docker.transport.unixconn import UnixHTTPAdapter, UnixHTTPConnectionPool
from docker.utils import kwargs_from_env
from requests import Request
from requests.exceptions import RequestException
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError

from aima_core.errors import DockerUnavailable

CONNECTIONS = 32
"""Kept open at most; calls beyond these open one each."""


class OnePoolAdapter(UnixHTTPAdapter):
    """The library's own keeps a pool for every URL: a connection for each container, and hardly one used twice."""

    def get_connection(self, url: Any, proxies: Any = None) -> Any:  # noqa: ARG002 one pool whatever the URL
        return super().get_connection("http+docker://localhost", proxies)


class EngineClient:
    def __init__(self, address: str | None, *, host: str, timeout: timedelta) -> None:
        self.address = address or os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
        self.host = host
        self.timeout = math.ceil(timeout.total_seconds())
        """Seconds, for one call."""
        self._kept: APIClient | None = None

    @property
    def local(self) -> bool:
        """Whether the engine's files are this machine's."""
        return self.address.startswith("unix://")

    @contextmanager
    def asking(self) -> Iterator[APIClient]:
        """The client, for calls inside. Raises DockerUnavailable where the engine does not answer."""
        try:
            yield self._client()
        except APIError:
            raise
        except (RequestException, HTTPError, DockerException, OSError) as away:
            self.close()
            raise self.unavailable(away) from away

    def connection(self, method: str, path: str, params: Mapping[str, str]) -> tuple[HTTPConnection, str]:
        """A connection of the caller's own, not connected yet, and the target to request on it.

        The kept client's own connections cannot be told apart from outside, so a call that has to be cut off from
        another thread gets none of those.
        """
        with self.asking() as client:
            url = f"{client.base_url}/v{client.api_version}{path}"
            request = client.prepare_request(Request(method, url, params=dict(params)))
            adapter = client.get_adapter(url)
            pool = adapter.get_connection_with_tls_context(request, verify=client.verify, cert=client.cert)  # type: ignore[attr-defined]  # the stubs know BaseAdapter only
            connection: HTTPConnection = pool._new_conn()
            return connection, request.path_url

    def close(self) -> None:
        """Let the connections go; who asks again has new ones."""
        client, self._kept = self._kept, None
        if client is not None:
            client.close()

    def unavailable(self, why: object) -> DockerUnavailable:
        return DockerUnavailable(host=self.host, detail=f"{self.address}: {why}")

    def _client(self) -> APIClient:
        if self._kept is None:
            self._kept = self._connect()
        return self._kept

    def _connect(self) -> APIClient:
        if self.address.startswith("ssh://"):
            return ssh_client(self.address, timeout=self.timeout, connections=CONNECTIONS)
        tls = kwargs_from_env().get("tls", False)  # DOCKER_TLS_VERIFY and DOCKER_CERT_PATH
        client = APIClient(self.address, version="auto", timeout=self.timeout, tls=tls)
        if self.local:
            adapter = OnePoolAdapter(f"http+{self.address}", timeout=self.timeout, max_pool_size=CONNECTIONS)
            client.mount("http+docker://", adapter)
            client.trust_env = False  # a socket has no proxy, and looking for one costs a millisecond a call
        return client


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
