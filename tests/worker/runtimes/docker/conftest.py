"""A Docker Engine, a registry, and connections to both that can be throttled, frozen and cut."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing, suppress

import docker
import pytest
from contract.bench import Bench
from contract.on_docker import DockerBench
from docker.errors import ImageNotFound
from lab.images import references
from lab.proxy import Proxy, proxy
from lab.registry import Registry, registry

from aima_worker.runtimes.docker.sdk.runtime import DockerSdkRuntime


@pytest.fixture(scope="session")
def shared_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture
def bad_line(shared_registry: Registry) -> Iterator[Proxy]:
    with proxy(shared_registry.port) as between:
        yield between


@pytest.fixture
def line() -> Iterator[Proxy]:
    """A connection to the engine that can be cut."""
    with proxy("/var/run/docker.sock") as between:
        yield between


@pytest.fixture
def bench() -> Iterator[Bench]:
    own = DockerBench()
    yield own
    own.close()


@pytest.fixture
def engine() -> Iterator[DockerSdkRuntime]:
    with closing(DockerSdkRuntime(host="bench-01")) as engine:
        yield engine


@pytest.fixture
def new_name() -> Iterator[str]:
    """A unique `name:tag`; every image of that name is removed from the engine afterwards."""
    name = f"pulled-{uuid.uuid4().hex[:12]}"
    yield f"{name}:1"
    with closing(docker.from_env()) as client:
        for reference in references(client):
            if name in reference:
                with suppress(ImageNotFound):
                    client.images.remove(reference, force=True)
