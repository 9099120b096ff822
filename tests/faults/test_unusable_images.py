"""Images larger than the free disk, and images for another architecture."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from faults.dial import a_dial_from
from lab.desk import Desk
from lab.engine import OwnEngine
from lab.images import foreign_image, layered_image
from lab.parts import eventually
from lab.registry import Registry, registry

from aima_core.domain.operations import Phase, State
from aima_worker.node.hardware import arch
from aima_worker.operations.container_spec import ours

pytestmark = [pytest.mark.docker, pytest.mark.registry, pytest.mark.redis]

MB = 1_000_000
DISK = "40M"
FOREIGN_ARCH = "arm64" if arch() == "amd64" else "amd64"
CONTENTS: dict[str, Callable[[int], bytes]] = {"downloaded": os.urandom, "unpacked": bytes}
"""Random bytes fill the disk while they are downloaded; zeros compress and fill it when they are extracted."""

small_disk = pytest.mark.parametrize("own", [{"disk": DISK}], indirect=True)


@pytest.fixture
def stall() -> timedelta:
    """Longer than a busy disk takes to be full."""
    return timedelta(seconds=30)


@pytest.fixture(scope="session")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a registry with images that are too large, and with an image of another architecture."""
    directory = tmp_path_factory.mktemp("registry")
    name = f"pushed-{uuid.uuid4().hex[:12]}:1"
    with registry(directory) as server:
        for when, content in CONTENTS.items():
            server.push(layered_image(name, layers=[45 * MB], content=content), name=f"{when}:1")
        server.push(foreign_image(name, arch=FOREIGN_ARCH), name="foreign:1")
    return directory


@pytest.fixture
def far(pushed: Path, own: OwnEngine) -> Iterator[Registry]:
    """The same registry in the network of the private Docker Engine."""
    with registry(pushed) as server:
        yield server


@small_disk
@pytest.mark.parametrize("when", CONTENTS)
def test_a_full_disk_fails_the_start_with_the_message_of_the_docker_engine(
    far: Registry, private_desk: Desk, when: str
) -> None:
    free = private_desk.host.runtime.facts().disk_free

    outcome = private_desk.run_command(a_dial_from(f"{far.address}/{when}:1"))

    assert outcome.operation.state is State.FAILED
    assert outcome.code == "disk_full"
    assert f"{far.address}/{when}:1" in outcome.operation.failure.message
    assert "no space left on device" in outcome.operation.failure.message
    assert re.search(r", and \S+ MB are free", outcome.operation.failure.message)
    assert not [event for event in outcome.events if "Trying again" in (event.message or "")]
    assert eventually(lambda: private_desk.host.runtime.facts().disk_free > free - MB)


@small_disk
def test_an_image_known_to_be_too_large_is_not_pulled(far: Registry, private_desk: Desk) -> None:
    outcome = private_desk.run_command(a_dial_from(f"{far.address}/unpacked:1", image_size=45 * MB))

    assert outcome.code == "disk_full"
    assert "it needs about 54 MB, and" in outcome.operation.failure.message
    assert not [event for event in outcome.events if event.progress]


def test_an_image_for_another_architecture_is_pulled_and_not_run(far: Registry, private_desk: Desk) -> None:
    outcome = private_desk.run_command(a_dial_from(f"{far.address}/foreign:1"))

    assert outcome.code == "image_wrong_arch"
    assert f"is for {FOREIGN_ARCH}, and alpha is {arch()}" in outcome.operation.failure.message
    assert Phase.STARTING not in outcome.phases
    assert private_desk.host.runtime.containers(ours(private_desk.host)) == []
    assert outcome.events[-1].at - outcome.events[-2].at < timedelta(seconds=5)  # one is promised


def test_an_image_for_another_architecture_only_present_locally_is_refused_as_such(
    own: OwnEngine, private_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", own.address)
    image = foreign_image("localhost:1/foreign:1", arch=FOREIGN_ARCH)

    outcome = private_desk.run_command(a_dial_from(image))

    assert outcome.code == "image_wrong_arch"
    assert private_desk.host.runtime.containers(ours(private_desk.host)) == []
