"""Images on a host: what a pull policy asks of a registry, what a forced pull reports, and what a removal refuses."""

from __future__ import annotations

import pytest
from lab.commands import SERVICE, a_pull, a_start_of, a_stop_of
from lab.desk import desk_of

from aima_core.domain.operations import Phase, PullImage, RemoveImage, State
from aima_core.errors import PullStalled
from aima_worker.runtimes.fake.streams import Published

pytestmark = pytest.mark.redis

ALWAYS = {"image": "tiny:1", "pull": "always"}


def messages(outcome) -> str:
    return " ".join(event.message or "" for event in outcome.events)


def removal(image: str) -> RemoveImage:
    return RemoveImage(image=image)


def forced(image: str) -> PullImage:
    return PullImage(images=(image,), pull="always")


# Policies -----------------------------------------------------------------------------------------------------------


def test_a_missing_image_that_is_never_pulled_fails_the_start_with_the_command_that_builds_it(desk, runtime):
    outcome = desk.run_command(a_start_of(image="built:1", pull="never", build="aima engine build built"))

    assert outcome.code == "image_never_pulled"
    assert outcome.operation.failure.hint == "Build it on alpha: `aima engine build built`."
    assert Phase.PULLING not in outcome.phases
    assert runtime.image("built:1") is None
    assert desk.leases() == []


def test_a_present_image_that_is_never_pulled_starts(desk, runtime):
    runtime.build_image("built:1")

    outcome = desk.run_command(a_start_of(image="built:1", pull="never"))

    assert outcome.operation.state is State.SUCCEEDED
    assert outcome.instance.digest is None
    assert outcome.instance.image_id == runtime.image("built:1").id


def test_a_start_with_always_takes_the_image_that_the_registry_has_now(desk, runtime):
    before = runtime.image("tiny:1")
    runtime.published["tiny:1"] = Published(version=2)

    outcome = desk.run_command(a_start_of(**ALWAYS))

    now = runtime.image("tiny:1")
    assert now != before
    assert outcome.instance.digest == now.digest
    assert f"tiny:1 was updated from {before.digest} to {now.digest}." in messages(outcome)


@pytest.mark.parametrize("unreachable", [None, PullStalled(image="tiny:1", stall="5s")])
def test_a_start_with_always_uses_the_present_image_if_the_registry_is_unreachable(desk, runtime, unreachable):
    for _ in range(3):
        runtime.fail_next_pull(unreachable)

    outcome = desk.run_command(a_start_of(**ALWAYS))

    assert outcome.operation.state is State.SUCCEEDED
    assert outcome.instance.digest == runtime.image("tiny:1").digest
    assert "Using the image that is present." in messages(outcome)


def test_a_start_with_always_fails_if_the_registry_has_the_image_no_longer(desk, runtime):
    runtime.published["tiny:1"] = None

    assert desk.run_command(a_start_of(**ALWAYS)).code == "image_not_found"


def test_a_start_with_missing_asks_no_registry_for_a_present_image(desk, runtime):
    runtime.published["tiny:1"] = Published(version=2)
    before = runtime.image("tiny:1")

    desk.run_command(a_start_of())

    assert runtime.image("tiny:1") == before


# Pulls --------------------------------------------------------------------------------------------------------------


def test_a_forced_pull_reports_an_update_with_both_digests(desk, runtime):
    before = runtime.image("tiny:1")
    runtime.published["tiny:1"] = Published(version=2)

    outcome = desk.run_command(forced("tiny:1"))

    assert outcome.operation.reason == (
        f"alpha: tiny:1 was updated from {before.digest} to {runtime.image('tiny:1').digest}."
    )
    assert [each.digest for each in runtime.images()] == [runtime.image("tiny:1").digest, before.digest]


def test_a_forced_pull_of_the_same_image_is_unchanged(desk, runtime):
    outcome = desk.run_command(forced("tiny:1"))

    assert outcome.operation.reason == f"alpha: tiny:1 is unchanged ({runtime.image('tiny:1').digest})."


def test_a_forced_pull_fails_if_the_registry_is_unreachable_although_the_image_is_present(desk, runtime):
    for _ in range(3):
        runtime.fail_next_pull()

    assert desk.run_command(forced("tiny:1")).code == "pull_broken"


def test_a_pull_announces_the_images_of_the_host(desk):
    announced = []
    desk.host.pulls.images_changed = lambda: announced.append(len(desk.host.runtime.images()))

    desk.run_command(a_pull("far:1"))

    assert announced == [2]


def test_a_host_of_native_processes_has_no_images(settings, redis, runtime):
    with desk_of(settings, redis, runtime, native=True) as desk:
        pulled, removed = desk.run_command(a_pull("far:1")), desk.run_command(removal("tiny:1"))

    assert (pulled.code, removed.code) == ("no_images_here", "no_images_here")
    assert runtime.image("far:1") is None
    assert runtime.image("tiny:1") is not None


# Removals -----------------------------------------------------------------------------------------------------------


def test_an_unused_image_is_removed(desk, runtime):
    outcome = desk.run_command(removal("tiny:1"))

    assert outcome.phases == [Phase.REMOVING, Phase.REMOVED]
    assert outcome.operation.state is State.SUCCEEDED
    assert runtime.images() == []


def test_an_image_in_use_is_not_removed_and_its_instances_are_named(desk, runtime):
    desk.run_command(a_start_of())

    refused = desk.run_command(removal("tiny:1"))
    desk.run_command(a_stop_of())
    removed = desk.run_command(removal("tiny:1"))

    assert refused.code == "image_in_use"
    assert f"by {SERVICE}@alpha." in refused.operation.failure.message
    assert removed.operation.state is State.SUCCEEDED


def test_the_earlier_image_of_a_running_instance_is_in_use_and_its_new_one_is_not(desk, runtime):
    desk.run_command(a_start_of())
    runtime.published["tiny:1"] = Published(version=2)
    desk.run_command(forced("tiny:1"))
    new, earlier = (each.reference for each in runtime.images())

    outcomes = [desk.run_command(removal(image)).code for image in (earlier, new)]

    assert outcomes == ["image_in_use", None]


def test_an_image_that_a_running_start_needs_is_not_removed(desk, runtime):
    runtime.stall_next_pull()
    start, started = desk.begin(a_start_of(image="far:1", alternatives=["also:1"]))
    desk.until_phase(start, Phase.PULLING)
    runtime.build_image("also:1")

    refused = desk.run_command(removal("also:1"))

    assert refused.code == "image_in_use"
    assert f"operation {start}" in refused.operation.failure.message
    assert started.result(20).operation.state is State.SUCCEEDED


def test_a_reference_that_the_host_does_not_list_is_absent(desk, runtime):
    id = runtime.image("tiny:1").id

    outcomes = [desk.run_command(removal(image)).code for image in ("tiny:2", "tiny", id.removeprefix("sha256:")[:12])]

    assert outcomes == ["image_absent"] * 3
    assert runtime.image("tiny:1") is not None
