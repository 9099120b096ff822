"""The images on a host and their digests, as a real engine lists them to the SDK and to its own program."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta

import docker
import pytest
from lab.images import layered_image
from lab.registry import Registry

from aima_worker.runtime import ContainerRuntime
from aima_worker.runtimes.docker.cli.runtime import DockerCli
from aima_worker.runtimes.docker.parsing import images_listed, images_printed
from aima_worker.runtimes.docker.sdk.runtime import DockerEngine

DIGEST, ANOTHER = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
WAYS = [pytest.param(DockerEngine, id="docker"), pytest.param(DockerCli, id="docker-cli")]


def listed(runtime: ContainerRuntime, name: str) -> dict[str, str | None]:
    return {each.reference: each.digest for each in runtime.images() if name in each.reference}


@pytest.mark.docker
@pytest.mark.registry
@pytest.mark.parametrize("way", WAYS)
def test_an_image_is_listed_with_the_digest_that_its_registry_knows(
    way: type[DockerEngine | DockerCli], shared_registry: Registry, new_name: str
) -> None:
    runtime = way(host="bench-01")
    image = shared_registry.push(layered_image(new_name, layers=[50]), name=new_name)
    list(runtime.pull(image, stall=timedelta(seconds=60)))

    facts = runtime.image(image)

    assert facts is not None
    assert facts.digest is not None
    assert listed(runtime, new_name.partition(":")[0]) == {image: facts.digest}


@pytest.mark.docker
@pytest.mark.registry
@pytest.mark.parametrize("way", WAYS)
def test_an_image_that_has_only_a_digest_is_listed_by_that(
    way: type[DockerEngine | DockerCli], shared_registry: Registry, new_name: str
) -> None:
    runtime = way(host="bench-01")
    image = shared_registry.push(layered_image(new_name, layers=[50]), name=new_name)
    list(runtime.pull(image, stall=timedelta(seconds=60)))
    facts = runtime.image(image)
    assert facts is not None
    with closing(docker.from_env()) as client:
        client.images.remove(image)

    by_digest = f"{image.rpartition(':')[0]}@{facts.digest}"
    list(runtime.pull(by_digest, stall=timedelta(seconds=60)))

    assert listed(runtime, new_name.partition(":")[0]) == {by_digest: facts.digest}


def test_the_newest_image_comes_first_whatever_the_engine_s_order() -> None:
    old = {"Created": 1, "RepoTags": ["old:1"], "RepoDigests": None}
    new = {"Created": 2, "RepoTags": ["new:1"], "RepoDigests": None}

    assert [each.reference for each in images_listed([old, new])] == ["new:1", "old:1"]


def test_every_tag_of_an_image_is_listed_with_its_own_repository_s_digest() -> None:
    image = {
        "Created": 1,
        "RepoTags": ["box:5000/a:1", "b:2", "<none>:<none>"],
        "RepoDigests": [f"box:5000/a@{DIGEST}", "<none>@<none>"],
    }

    assert {each.reference: each.digest for each in images_listed([image])} == {"box:5000/a:1": DIGEST, "b:2": None}


def test_what_has_neither_tag_nor_digest_is_not_listed() -> None:
    row = {"Repository": "<none>", "Tag": "<none>", "Digest": "<none>"}

    assert images_listed([{"Created": 1, "RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"]}]) == []
    assert images_listed([{"Created": 1, "RepoTags": [], "RepoDigests": []}]) == []
    assert images_printed([row, row | {"Repository": "a"}]) == []


def test_rows_of_one_tag_with_several_digests_are_one_image() -> None:
    rows = [{"Repository": "a", "Tag": "1", "Digest": digest} for digest in (DIGEST, ANOTHER)]

    assert [(each.reference, each.digest) for each in images_printed(rows)] == [("a:1", DIGEST)]
