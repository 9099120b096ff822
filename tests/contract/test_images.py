"""The contract of `ContainerRuntime.facts`, `image`, `images` and `pull`, without a registry."""

from __future__ import annotations

from datetime import timedelta

import pytest
from contract.bench import Bench, Program

from aima_core.errors import AimaError, ImageInUse, NoImagesHere
from aima_worker.runtime import ContainerRuntime

STALL = timedelta(seconds=10)


def test_a_runtime_reports_its_facts(runtime: ContainerRuntime) -> None:
    facts = runtime.facts()

    assert facts.version
    assert facts.disk_free is None or facts.disk_free > 0


def test_a_present_image_has_its_facts(bench: Bench, runtime: ContainerRuntime) -> None:
    if not bench.has_images:
        pytest.skip("this runtime runs no images")

    image = runtime.image(bench.image)

    assert image is not None
    assert image.id.startswith("sha256:")
    assert image.arch in ("amd64", "arm64")
    assert image.size > 0
    assert runtime.image(image.id) == image


def test_a_missing_image_is_none(bench: Bench, runtime: ContainerRuntime) -> None:
    if not bench.has_images:
        pytest.skip("this runtime runs no images")

    assert runtime.image(bench.absent_image) is None


def test_a_present_image_is_listed_under_its_reference(bench: Bench, runtime: ContainerRuntime) -> None:
    if not bench.has_images:
        pytest.skip("this runtime runs no images")
    image = runtime.image(bench.image)
    assert image is not None

    listed = [each for each in runtime.images() if each.reference == bench.image]

    assert [each.digest for each in listed] == [image.digest]


def test_no_reference_is_listed_twice(runtime: ContainerRuntime) -> None:
    references = [each.reference for each in runtime.images()]

    assert len(references) == len(set(references))


def test_a_runtime_without_images_lists_none(bench: Bench, runtime: ContainerRuntime) -> None:
    if bench.has_images:
        pytest.skip("this runtime runs images")

    assert runtime.images() == []


def test_a_pull_that_cannot_succeed_raises(bench: Bench, runtime: ContainerRuntime) -> None:
    if not bench.has_images:
        pytest.skip("this runtime runs no images")

    with pytest.raises(AimaError):
        list(runtime.pull(bench.absent_image, stall=STALL))

    assert runtime.image(bench.absent_image) is None


def test_a_removed_image_is_gone_and_may_be_removed_again(bench: Bench, runtime: ContainerRuntime) -> None:
    if not bench.has_images:
        pytest.skip("this runtime runs no images")
    image = bench.spare_image()

    runtime.remove_image(image)
    runtime.remove_image(image)

    assert runtime.image(image) is None
    assert image not in [each.reference for each in runtime.images()]


def test_an_image_of_a_container_is_not_removed(bench: Bench, runtime: ContainerRuntime) -> None:
    if not bench.has_images:
        pytest.skip("this runtime runs no images")
    image = bench.spare_image()
    container = runtime.run(bench.spec(Program.SERVES, image=image))

    with pytest.raises(ImageInUse):
        runtime.remove_image(image)

    facts = runtime.image(image)
    assert facts is not None
    found = runtime.find(container.name)
    assert found is not None
    assert found.image_id == facts.id
    runtime.remove(container.name, grace=timedelta(0))
    runtime.remove_image(image)


def test_a_listed_image_has_its_id_and_size(bench: Bench, runtime: ContainerRuntime) -> None:
    if not bench.has_images:
        pytest.skip("this runtime runs no images")
    facts = runtime.image(bench.image)
    assert facts is not None

    [listed] = [each for each in runtime.images() if each.reference == bench.image]

    assert (listed.id, listed.size) == (facts.id, facts.size)


def test_a_runtime_without_images_pulls_and_removes_none(bench: Bench, runtime: ContainerRuntime) -> None:
    if bench.has_images:
        pytest.skip("this runtime runs images")

    with pytest.raises(NoImagesHere):
        list(runtime.pull("tiny:1", stall=STALL))
    with pytest.raises(NoImagesHere):
        runtime.remove_image("tiny:1")
