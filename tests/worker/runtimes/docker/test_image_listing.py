"""The images on a host and their digests, as a real engine lists them."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta

import docker
import pytest
from lab.images import layered_image
from lab.registry import Registry

from aima_worker.runtime import ContainerRuntime
from aima_worker.runtimes.docker.parsing import images_listed
from aima_worker.runtimes.docker.sdk.runtime import DockerSdkRuntime

DIGEST = f"sha256:{'1' * 64}"
KEPT = {"Id": f"sha256:{'2' * 64}", "Size": 2_000_000}


def listed(runtime: ContainerRuntime, name: str) -> dict[str, str | None]:
    return {each.reference: each.digest for each in runtime.images() if name in each.reference}


@pytest.mark.docker
@pytest.mark.registry
def test_an_image_is_listed_with_the_digest_of_its_registry(
    engine: DockerSdkRuntime, shared_registry: Registry, new_name: str
) -> None:
    image = shared_registry.push(layered_image(new_name, layers=[50]), name=new_name)
    list(engine.pull(image, stall=timedelta(seconds=60)))

    facts = engine.image(image)

    assert facts is not None
    assert facts.digest is not None
    assert listed(engine, new_name.partition(":")[0]) == {image: facts.digest}


@pytest.mark.docker
@pytest.mark.registry
def test_an_image_without_a_tag_is_listed_by_its_digest(
    engine: DockerSdkRuntime, shared_registry: Registry, new_name: str
) -> None:
    image = shared_registry.push(layered_image(new_name, layers=[50]), name=new_name)
    list(engine.pull(image, stall=timedelta(seconds=60)))
    facts = engine.image(image)
    assert facts is not None
    with closing(docker.from_env()) as client:
        client.images.remove(image)

    by_digest = f"{image.rpartition(':')[0]}@{facts.digest}"
    list(engine.pull(by_digest, stall=timedelta(seconds=60)))

    assert listed(engine, new_name.partition(":")[0]) == {by_digest: facts.digest}


def test_the_newest_image_comes_first_in_any_order_of_the_docker_engine() -> None:
    old = {**KEPT, "Created": 1, "RepoTags": ["old:1"], "RepoDigests": None}
    new = {**KEPT, "Created": 2, "RepoTags": ["new:1"], "RepoDigests": None}

    assert [each.reference for each in images_listed([old, new])] == ["new:1", "old:1"]


def test_every_tag_of_an_image_is_listed_with_the_digest_of_its_repository() -> None:
    image = {
        **KEPT,
        "Created": 1,
        "RepoTags": ["box:5000/a:1", "b:2", "<none>:<none>"],
        "RepoDigests": [f"box:5000/a@{DIGEST}", "<none>@<none>"],
    }

    assert {each.reference: each.digest for each in images_listed([image])} == {"box:5000/a:1": DIGEST, "b:2": None}


def test_an_image_without_tag_and_digest_is_not_listed() -> None:
    assert (
        images_listed([{**KEPT, "Created": 1, "RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"]}]) == []
    )
    assert images_listed([{**KEPT, "Created": 1, "RepoTags": [], "RepoDigests": []}]) == []
