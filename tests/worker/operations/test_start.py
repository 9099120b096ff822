"""Starting a service: each phase is reported, and a failed start is rolled back to its last log lines."""

from __future__ import annotations

from datetime import timedelta

import pytest
from lab.commands import a_start_of, a_stop_of
from lab.desk import desk_of
from lab.parts import eventually
from pydantic import SecretStr

from aima_core.domain.operations import Phase, State
from aima_core.domain.services import InstanceState
from aima_core.domain.units import format_size
from aima_core.errors import DiskFull, ImageNotFound
from aima_worker.runtime import Status
from aima_worker.runtimes.fake.engine import Behaviour
from aima_worker.runtimes.fake.streams import Published

pytestmark = pytest.mark.redis
NAME = "test.svc-tiny-dial.alpha"


def assert_nothing_is_left(desk) -> None:
    assert desk.containers() == []
    assert desk.leases() == []


def test_a_start_passes_its_phases_and_ends_ready_with_an_endpoint(desk, runtime):
    outcome = desk.run_command(a_start_of())

    assert outcome.phases == [Phase.STARTING, Phase.LOADING, Phase.READY]
    assert outcome.operation.state is State.SUCCEEDED
    assert outcome.operation.endpoint == f"http://127.0.0.1:{desk.leases()[0]}"
    assert outcome.instance.state is InstanceState.READY
    assert runtime.probe(f"{outcome.instance.endpoint}/health") == 200


def test_a_missing_image_is_pulled_and_its_bytes_are_reported(desk, runtime):
    runtime.published["far:1"] = Published()

    outcome = desk.run_command(a_start_of(image="far:1"))

    assert Phase.PULLING in outcome.phases
    last = [event.progress for event in outcome.events if event.progress][-1]
    assert last.total_known
    assert last.downloaded == last.total > 0


def test_a_start_of_a_running_service_adopts_its_container(desk, runtime):
    first = desk.run_command(a_start_of())
    before = runtime.find(NAME)

    second = desk.run_command(a_start_of())

    assert second.operation.endpoint == first.operation.endpoint
    assert runtime.find(NAME).id == before.id


def test_a_start_with_other_arguments_replaces_the_container(desk, runtime):
    desk.run_command(a_start_of())
    before = runtime.find(NAME)

    desk.run_command(a_start_of(arguments={"threads": 4}))

    assert runtime.find(NAME).id != before.id
    assert desk.containers() == [NAME]
    assert len(desk.leases()) == 1


def test_a_restart_replaces_even_an_identical_container(desk, runtime):
    desk.run_command(a_start_of())
    before = runtime.find(NAME)

    desk.run_command(a_start_of().model_copy(update={"replace": True}))

    assert runtime.find(NAME).id != before.id


def test_a_crashing_engine_leaves_nothing_behind_but_its_last_log_lines(desk, runtime):
    runtime.crash_next(last_words="CUDA out of memory", exit_code=3)

    outcome = desk.run_command(a_start_of())

    assert outcome.code == "container_exited"
    assert "exit code 3" in outcome.operation.failure.message
    assert "CUDA out of memory" in outcome.operation.failure.log_tail
    assert outcome.instance.state is InstanceState.FAILED
    assert outcome.instance.failure == outcome.operation.failure
    assert_nothing_is_left(desk)


def test_an_engine_killed_for_lack_of_memory_is_distinguished_from_a_crash(desk, runtime):
    runtime.next_runs(Behaviour(out_of_memory=True))

    outcome = desk.run_command(a_start_of(limits={"memory": "64MB"}))

    assert outcome.code == "out_of_memory"
    assert "64 MB" in outcome.operation.failure.message
    assert_nothing_is_left(desk)


def test_a_health_check_that_never_succeeds_fails_the_start(desk, runtime):
    runtime.next_runs(Behaviour(answers=False, stdout=b"thinking\n"))

    outcome = desk.run_command(a_start_of(health_check={"timeout": "300ms"}))

    assert outcome.code == "health_timeout"
    assert outcome.operation.failure.log_tail == ("thinking",)
    assert_nothing_is_left(desk)


def test_log_activity_extends_the_health_timeout_up_to_its_maximum(desk, runtime):
    counting = Behaviour(answers=False, counts=timedelta(milliseconds=50))
    runtime.next_runs(counting)

    outcome = desk.run_command(a_start_of(health_check={"timeout": "1s", "at_most": "2s"}))

    assert outcome.code == "health_timeout"
    waited = outcome.operation.ended_at - next(event.at for event in outcome.events if event.phase is Phase.LOADING)
    assert waited > timedelta(seconds=1.9)


def test_log_lines_while_loading_are_reported_as_progress(desk, runtime):
    runtime.next_runs(Behaviour(stdout=b"shard 1 of 2\nshard 2 of 2\n", answers=False))
    id, end = desk.begin(a_start_of())

    def quoted():
        return [line for event in desk.outcome(id).events for line in event.lines]

    assert eventually(lambda: quoted() == ["shard 1 of 2", "shard 2 of 2"])
    runtime.behave(NAME, Behaviour())
    outcome = end.result(10)

    assert outcome.operation.state is State.SUCCEEDED
    assert quoted() == ["shard 1 of 2", "shard 2 of 2"]
    assert all(event.phase is Phase.LOADING for event in outcome.events if event.lines)


def test_an_image_that_does_not_exist_fails_the_start(desk, runtime):
    runtime.published["far:1"] = None

    outcome = desk.run_command(a_start_of(image="far:1"))

    assert outcome.code == "image_not_found"
    assert_nothing_is_left(desk)


def test_alternative_images_are_tried_in_order_and_each_failure_is_reported(desk, runtime):
    runtime.published |= {"far:1": None, "mirror/tiny:1": None, "other/tiny:1": Published()}

    outcome = desk.run_command(a_start_of(image="far:1", alternatives=["mirror/tiny:1", "other/tiny:1"]))

    assert outcome.operation.state is State.SUCCEEDED
    assert outcome.instance.image == "other/tiny:1"
    reported = " ".join(event.message or "" for event in outcome.events)
    assert "far:1" in reported
    assert "mirror/tiny:1" in reported


def test_a_present_image_is_preferred_to_one_that_must_be_pulled(desk, runtime):
    runtime.published["far:1"] = Published()
    list(runtime.pull("mirror/tiny:1", stall=timedelta(seconds=1)))

    outcome = desk.run_command(a_start_of(image="far:1", alternatives=["mirror/tiny:1"]))

    assert Phase.PULLING not in outcome.phases
    assert outcome.instance.image == "mirror/tiny:1"


@pytest.mark.parametrize("reported", [True, False], ids=["told before", "seen after"])
def test_an_image_for_another_architecture_is_refused_without_a_container(desk, runtime, reported):
    runtime.published["far:1"] = Published(arch="riscv64", announces_arch=reported)

    outcome = desk.run_command(a_start_of(image="far:1"))

    assert outcome.code == "image_wrong_arch"
    assert "riscv64" in outcome.operation.failure.message
    assert any(event.progress for event in outcome.events) is not reported
    assert_nothing_is_left(desk)


def test_an_interrupted_pull_is_retried(desk, runtime):
    runtime.published["far:1"] = Published()
    runtime.fail_next_pull()
    runtime.fail_next_pull()

    outcome = desk.run_command(a_start_of(image="far:1"))

    assert outcome.operation.state is State.SUCCEEDED
    assert sum("Trying again" in (event.message or "") for event in outcome.events) == 2


def test_a_pull_that_is_interrupted_each_time_fails_the_start(desk, runtime):
    runtime.published["far:1"] = Published()
    for _ in range(3):
        runtime.fail_next_pull()

    outcome = desk.run_command(a_start_of(image="far:1"))

    assert outcome.code == "pull_broken"
    assert_nothing_is_left(desk)


@pytest.mark.parametrize(
    "failure", [ImageNotFound(image="tiny:1", detail="gone"), DiskFull(image="tiny:1", detail="full")]
)
def test_permanent_failures_are_not_retried(desk, runtime, failure):
    runtime.published["far:1"] = Published()
    runtime.fail_next_pull(failure)

    outcome = desk.run_command(a_start_of(image="far:1"))

    assert outcome.code == failure.code


def test_a_disk_that_fills_up_during_a_pull_is_reported_with_the_remaining_bytes(desk, runtime):
    runtime.published["far:1"] = Published()
    runtime.fail_next_pull(DiskFull(image="far:1", detail="no space left on device"))

    outcome = desk.run_command(a_start_of(image="far:1"))

    total = max(event.progress.total for event in outcome.events if event.progress)
    reported = f"no space left on device. Its layers are {format_size(total)} before they are unpacked, and "
    assert reported in outcome.operation.failure.message


def test_an_image_larger_than_the_free_disk_is_not_pulled(desk, runtime):
    runtime.published["far:1"] = Published()

    outcome = desk.run_command(a_start_of(image="far:1", image_size="999GB"))

    assert outcome.code == "disk_full"
    assert not any(event.progress for event in outcome.events)


def test_a_start_that_fails_early_leaves_the_running_container_alone(desk, runtime):
    first = desk.run_command(a_start_of())

    second = desk.run_command(a_start_of(port=80))

    assert second.code == "port_out_of_range"
    assert runtime.find(NAME).status is Status.RUNNING
    assert second.instance.state is InstanceState.READY
    assert second.instance.endpoint == first.operation.endpoint
    assert len(desk.leases()) == 1


def test_a_model_is_mounted_from_below_a_model_root(desk, runtime, model_root):
    (model_root / "tiny").mkdir()

    outcome = desk.run_command(a_start_of(model_mount="/models").model_copy(update={"model_path": "tiny"}))

    assert outcome.operation.state is State.SUCCEEDED
    assert runtime.spec_of(NAME).mounts[0].source == str(model_root / "tiny")


@pytest.mark.parametrize(
    ("path", "code"),
    [("nowhere", "model_path_missing"), ("/etc", "model_path_outside"), ("../..", "model_path_outside")],
)
def test_a_model_that_is_missing_or_outside_the_model_roots_is_refused(desk, path, code):
    outcome = desk.run_command(a_start_of(model_mount="/models").model_copy(update={"model_path": path}))

    assert outcome.code == code
    assert_nothing_is_left(desk)


def test_a_symlink_out_of_the_model_root_is_refused(desk, model_root):
    (model_root / "out").symlink_to("/etc")

    outcome = desk.run_command(a_start_of(model_mount="/models").model_copy(update={"model_path": "out"}))

    assert outcome.code == "model_path_unsafe"


def test_a_command_signed_with_another_key_is_not_executed(desk):
    outcome = desk.run_command(a_start_of(), key=SecretStr("another seed, which nobody gave to the hosts"))

    assert outcome.code == "bad_signature"
    assert_nothing_is_left(desk)


def test_an_unavailable_docker_engine_fails_the_start_with_the_reason(desk, runtime):
    runtime.away = True

    outcome = desk.run_command(a_start_of())

    assert outcome.code == "docker_unavailable"
    assert desk.leases() == []


def test_a_start_older_than_a_stop_does_nothing(desk):
    late = desk.ask(a_start_of())
    desk.run_command(a_stop_of())

    outcome = desk.finish(late)

    assert outcome.operation.state is State.CANCELLED
    assert outcome.instance.state is InstanceState.STOPPED
    assert_nothing_is_left(desk)


def test_an_engine_listens_on_loopback_unless_its_service_is_exposed_or_of_an_earlier_version(settings, redis, runtime):
    away = settings.model_copy(update={"host": settings.host.model_copy(update={"address": "0.0.0.0"})})
    with desk_of(away, redis, runtime, probe=runtime.probe) as desk:
        for number, (expose, address) in enumerate([(False, "127.0.0.1"), (True, "0.0.0.0"), (None, "0.0.0.0")]):
            command = a_start_of(f"svc-tiny-m{number}").model_copy(update={"expose": expose})

            instance = desk.run_command(command).instance

            assert instance.endpoint == f"http://{address}:{instance.port}"
            assert instance.dataplane == "http://0.0.0.0:7091"
            assert desk.host.addresses.find(instance.id)[:2] == (address, instance.port)


def test_a_stopped_instance_has_no_address_any_more(desk):
    started = desk.run_command(a_start_of()).instance
    assert desk.host.addresses.find(started.id) is not None

    desk.run_command(a_stop_of())

    assert desk.host.addresses.find(started.id) is None


def test_a_command_that_does_not_expose_has_the_digest_of_an_earlier_version():
    command = a_start_of()

    digests = [command.model_copy(update={"expose": expose}).digest for expose in (None, False, True)]

    assert digests[0] == digests[1] != digests[2]
