"""A Docker Engine, a registry to pull from, and a bad line to it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing, suppress

import docker
import pytest
from docker.errors import ImageNotFound
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
def engine() -> Iterator[DockerSdkRuntime]:
    with closing(DockerSdkRuntime(host="bench-01")) as engine:
        yield engine


@pytest.fixture
def new_name() -> Iterator[str]:
    """`name:tag` that no registry and no engine has heard of; every image so named is taken from the engine again."""
    name = f"pulled-{uuid.uuid4().hex[:12]}"
    yield f"{name}:1"
    with closing(docker.from_env()) as client:
        for image in client.images.list(all=True):
            for reference in [*image.tags, *image.attrs.get("RepoDigests", [])]:
                if name in reference:
                    with suppress(ImageNotFound):
                        client.images.remove(reference, force=True)
