"""A tag that moves in a real registry: noticed by forced pulls and by `always`, and removed by a real Docker Engine."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import docker
import pytest
from lab.commands import SERVICE, a_start_of, a_stop_of
from lab.desk import Desk, desk_of
from lab.images import busybox_image, layered_image
from lab.parts import own_ports
from lab.registry import Registry, registry

from aima_core.domain.operations import PullImage, RemoveImage, StartService, State
from aima_core.redis.interface import TextRedis
from aima_core.settings import Settings
from aima_worker.context import Timings
from aima_worker.runtimes.docker.sdk.runtime import DockerSdkRuntime

pytestmark = [pytest.mark.docker, pytest.mark.registry, pytest.mark.redis]

PORTS = own_ports(19500)
"""Docker Engine listens on them: no test beside this one may lease them."""
SERVE = ["httpd", "-f", "-p", "8000", "-h", "/www"]


@pytest.fixture
def desk(settings: Settings, redis: TextRedis, engine: DockerSdkRuntime, timings: Timings) -> Iterator[Desk]:
    host = settings.host.model_copy(update={"ports": PORTS})
    own = settings.model_copy(update={"installation": f"moved-{uuid.uuid4().hex[:8]}", "host": host})
    with desk_of(own, redis, engine, timings=timings) as desk:
        yield desk
        desk.run_command(a_stop_of())


def publish(registry: Registry, name: str) -> str:
    """Another image under the same name."""
    return registry.push(layered_image(name, layers=[50], base=busybox_image()), name=name)


def start_of(image: str, pull: str) -> StartService:
    return a_start_of(image=image, pull=pull, command=SERVE)


def test_a_moved_tag_is_updated_by_force_and_its_earlier_image_is_removed_once_unused(
    desk: Desk, engine: DockerSdkRuntime, shared_registry: Registry, new_name: str
) -> None:
    image = publish(shared_registry, new_name)
    forced = PullImage(images=(image,), pull="always")
    assert desk.run_command(start_of(image, "missing")).operation.state is State.SUCCEEDED
    before = engine.image(image)
    assert before is not None
    publish(shared_registry, new_name)
    with closing(docker.from_env()) as client:
        client.images.get(before.id).tag(image)  # which the push has moved

    updated, unchanged = desk.run_command(forced), desk.run_command(forced)

    now = engine.image(image)
    assert now is not None
    assert updated.operation.reason == f"alpha: {image} was updated from {before.digest} to {now.digest}."
    assert unchanged.operation.reason == f"alpha: {image} is unchanged ({now.digest})."
    [earlier] = [each.reference for each in engine.images() if each.id == before.id]
    refused = desk.run_command(RemoveImage(image=earlier))
    assert refused.code == "image_in_use"
    assert f"{SERVICE}@alpha" in str(refused.operation.failure)
    desk.run_command(a_stop_of())
    assert desk.run_command(RemoveImage(image=earlier)).operation.state is State.SUCCEEDED
    assert engine.image(before.id) is None


def test_a_start_with_always_updates_and_falls_back_while_the_registry_is_away(
    desk: Desk, engine: DockerSdkRuntime, tmp_path: Path, new_name: str
) -> None:
    with registry(tmp_path / "registry") as own:
        image = publish(own, new_name)
        first = desk.run_command(start_of(image, "always"))
        desk.run_command(a_stop_of())
        publish(own, new_name)
        second = desk.run_command(start_of(image, "always"))
        desk.run_command(a_stop_of())

    third = desk.run_command(start_of(image, "always"))

    digests = [outcome.instance and outcome.instance.digest for outcome in (first, second, third)]
    assert None not in digests
    assert digests[0] != digests[1] == digests[2]
    assert any("Using the image that is present." in (event.message or "") for event in third.events)


def test_an_image_that_is_never_pulled_is_not_asked_of_a_registry_that_has_it(
    desk: Desk, engine: DockerSdkRuntime, shared_registry: Registry, new_name: str
) -> None:
    image = publish(shared_registry, new_name)

    outcome = desk.run_command(start_of(image, "never"))

    assert outcome.code == "image_never_pulled"
    assert engine.image(image) is None


def test_an_image_has_no_digest_of_a_repository_that_it_was_not_pulled_from(
    engine: DockerSdkRuntime, shared_registry: Registry, new_name: str
) -> None:
    built = layered_image(new_name, layers=[50])
    pushed = publish(shared_registry, f"other-{new_name}")
    list(engine.pull(pushed, stall=Settings().docker.stall))

    facts = engine.image(built)

    assert facts is not None
    assert facts.digest is None
