"""The one kept client to a Docker Engine, and the translation of everything that keeps it from answering.

Nothing is asked of the engine before the first call, and an engine that comes back is spoken to anew, in whatever
version of the API it has then. What the engine answers is the callers' to judge: APIError passes through.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from docker import APIClient
from docker.errors import APIError, DockerException
from docker.transport.unixconn import UnixHTTPAdapter
from docker.utils import kwargs_from_env
from requests import Request
from requests.exceptions import RequestException
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError

from aima_core.errors import DockerUnavailable
from aima_worker.runtimes.docker.sdk.ssh import ssh_client

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
