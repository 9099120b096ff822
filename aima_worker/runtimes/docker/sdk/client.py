"""The cached client to a Docker Engine, shared by all threads: which engine, by which transport.

A broken connection or a timeout raises DockerUnavailable and drops the client; the next call connects again, in the API
version that the engine has after a restart. A refusal raises EngineRefused.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from docker import APIClient
from docker.errors import APIError, DockerException
from docker.tls import TLSConfig
from docker.transport.unixconn import UnixHTTPAdapter
from docker.utils import kwargs_from_env
from requests import Request
from requests.exceptions import RequestException
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError

from aima_core.errors import DockerUnavailable
from aima_worker.runtimes.docker.parsing import engine_refused
from aima_worker.runtimes.docker.sdk.stdio import docker_command, ssh_command, stdio_client

CONNECTIONS = 32
"""Most connections kept open; concurrent calls beyond these open one each."""
DEFAULT_ADDRESS = "unix:///var/run/docker.sock"


class EngineClient:
    def __init__(self, address: str | None, *, host: str, timeout: timedelta, through_program: bool = False) -> None:
        """`address` None takes DOCKER_HOST, else the current docker context, else the default socket.

        `through_program` connects by the `docker` program rather than to the address.
        """
        self._program = docker_command(address) if through_program else None
        self.endpoint = Endpoint(address) if address else current_endpoint()
        self.host = host
        self.timeout = math.ceil(timeout.total_seconds())
        """For one call, in seconds."""
        self._cached: APIClient | None = None

    @property
    def local(self) -> bool:
        """Whether the engine's files are on this machine."""
        return self.endpoint.address.startswith("unix://")

    @contextmanager
    def calling(self) -> Iterator[APIClient]:
        """The client, for the calls inside. Raises EngineRefused; DockerUnavailable without an answer in time."""
        try:
            client = self._cached = self._cached or self._connect()
            yield client
        except APIError as refused:
            raise engine_refused(str(refused.explanation or refused).strip(), status=refused.status_code) from refused
        except (RequestException, HTTPError, DockerException, OSError) as broken:
            self.close()
            raise self.unavailable(broken) from broken

    def connection(self, method: str, path: str, params: Mapping[str, str]) -> tuple[HTTPConnection, str]:
        """An own connection, not connected yet, and the target to request on it.

        The pooled connections are indistinguishable from outside, so a call that another thread may have to close
        cannot use one.
        """
        with self.calling() as client:
            url = f"{client.base_url}/v{client.api_version}{path}"
            request = client.prepare_request(Request(method, url, params=dict(params)))
            adapter = client.get_adapter(url)
            pool = adapter.get_connection_with_tls_context(request, verify=client.verify, cert=client.cert)  # type: ignore[attr-defined]  # the stubs know BaseAdapter only
            connection: HTTPConnection = pool._new_conn()
            return connection, request.path_url

    def close(self) -> None:
        """Close the kept connections; the next call opens new ones."""
        client, self._cached = self._cached, None
        if client is not None:
            client.close()

    def unavailable(self, why: object) -> DockerUnavailable:
        return DockerUnavailable(host=self.host, detail=f"{self.endpoint.address}: {why}")

    def _connect(self) -> APIClient:
        scheme = urlsplit(self.endpoint.address).scheme
        if program := self._program or (ssh_command(self.endpoint.address) if scheme == "ssh" else None):
            return stdio_client(program, timeout=self.timeout)
        if scheme == "context":
            raise DockerException("there is no such docker context")
        client = APIClient(self.endpoint.address, version="auto", timeout=self.timeout, tls=_tls(self.endpoint))
        if scheme == "unix":
            adapter = _OnePoolAdapter(f"http+{self.endpoint.address}", timeout=self.timeout, max_pool_size=CONNECTIONS)
            client.mount("http+docker://", adapter)
            client.trust_env = False  # a socket has no proxy, and the lookup costs a millisecond per call
        return client


class _OnePoolAdapter(UnixHTTPAdapter):
    """One pool for all URLs. The library keeps one per URL, so hardly any connection would be used twice."""

    def get_connection(self, url: Any, proxies: Any = None) -> Any:  # noqa: ARG002 one pool whatever the URL
        return super().get_connection("http+docker://localhost", proxies)


# Which engine --------------------------------------------------------------------------------------------------------


class Endpoint(NamedTuple):
    address: str
    """`unix://`, `tcp://`, `http(s)://` or `ssh://`; `context://` for a context that does not exist."""
    tls_files: Path | None = None
    """The directory with `ca.pem`, `cert.pem` and `key.pem`; None for what DOCKER_CERT_PATH names."""
    verify: bool = True


def current_endpoint() -> Endpoint:
    """The engine that the `docker` program uses: by DOCKER_HOST, DOCKER_CONTEXT, `docker context use` or default."""
    if address := os.environ.get("DOCKER_HOST"):
        return Endpoint(address)
    directory = Path(os.environ.get("DOCKER_CONFIG") or Path(os.environ.get("HOME", "/")) / ".docker")
    name = os.environ.get("DOCKER_CONTEXT") or _read(directory / "config.json").get("currentContext") or "default"
    return Endpoint(DEFAULT_ADDRESS) if name == "default" else _of_context(name, directory / "contexts")


def _of_context(name: str, contexts: Path) -> Endpoint:
    """From the context's files, in directories named by a hash of its name."""
    key = sha256(name.encode()).hexdigest()
    docker = _read(contexts / "meta" / key / "meta.json").get("Endpoints", {}).get("docker", {})
    return Endpoint(
        docker.get("Host") or f"context://{name}",
        tls_files=contexts / "tls" / key / "docker",
        verify=not docker.get("SkipTLSVerify"),
    )


def _tls(endpoint: Endpoint) -> TLSConfig | bool:
    if endpoint.tls_files is None:
        return kwargs_from_env().get("tls", False)
    if not endpoint.tls_files.is_dir():
        return False
    authority, certificate, key = (str(endpoint.tls_files / name) for name in ("ca.pem", "cert.pem", "key.pem"))
    return TLSConfig(
        ca_cert=authority if Path(authority).exists() else None,
        client_cert=(certificate, key) if Path(certificate).exists() else None,
        verify=endpoint.verify,
    )


def _read(path: Path) -> dict[str, Any]:
    """Empty if it is missing or malformed."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
