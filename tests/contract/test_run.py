"""The contract of `ContainerRuntime.run`, `find` and `containers`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from contract.bench import EXIT_STATUS, Bench, Program
from lab.parts import eventually

from aima_core.errors import ImageNotFound, PortTaken
from aima_worker.runtime import Container, ContainerRuntime, Status

NOW = timedelta(0)
STARTS_WITHIN = timedelta(seconds=60)
"""And ends, if it does at once."""


def answers(bench: Bench, container: Container) -> bool:
    port = next(iter(container.host_ports.values()))
    try:
        return bench.probe(f"http://127.0.0.1:{port}/health") == 200
    except OSError:
        return False


def has_ended(runtime: ContainerRuntime, name: str) -> bool:
    found = runtime.find(name)
    return found is not None and found.status is Status.EXITED


def test_a_running_engine_answers_on_its_host_port(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.SERVES)

    container = runtime.run(spec)

    assert container.status is Status.RUNNING
    assert container.host_ports == {spec.container_port: spec.host_port}
    assert eventually(lambda: answers(bench, container), within=STARTS_WITHIN)


def test_a_running_container_is_found_by_its_name_with_its_labels_and_ports(
    bench: Bench, runtime: ContainerRuntime
) -> None:
    spec = bench.spec(Program.SERVES)
    before = datetime.now(UTC) - timedelta(seconds=2)

    ran = runtime.run(spec)
    found = runtime.find(spec.name)

    assert found is not None
    assert (found.id, found.name, found.status) == (ran.id, spec.name, Status.RUNNING)
    assert found.labels == ran.labels
    assert spec.labels.items() <= found.labels.items()
    assert found.host_ports == {spec.container_port: spec.host_port}
    assert found.started_at is not None
    assert before < found.started_at < datetime.now(UTC) + timedelta(seconds=2)
    assert found.exit_code is None


def test_an_unknown_name_finds_nothing(runtime: ContainerRuntime) -> None:
    assert runtime.find("aima-bench-nobody") is None


def test_running_the_same_spec_again_adopts_the_running_container(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.SERVES)
    first = runtime.run(spec)

    second = runtime.run(spec)

    assert second.id == first.id
    assert len(runtime.containers(bench.labels)) == 1


def test_changed_labels_do_not_restart_a_running_container(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.SERVES)
    first = runtime.run(spec)

    second = runtime.run(spec.model_copy(update={"labels": {**spec.labels, "aima.operation": "another"}}))

    assert second.id == first.id


def test_running_a_changed_spec_replaces_the_running_container(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.COUNTS)
    first = runtime.run(spec)

    second = runtime.run(spec.model_copy(update={"environment": {"CHANGED": "yes"}}))

    assert second.id != first.id
    assert [container.id for container in runtime.containers(bench.labels)] == [second.id]


def test_running_again_replaces_an_exited_container(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.CRASHES)
    first = runtime.run(spec)
    assert eventually(lambda: has_ended(runtime, spec.name), within=STARTS_WITHIN)

    second = runtime.run(spec)

    assert second.id != first.id
    assert len(runtime.containers(bench.labels)) == 1


def test_concurrent_runs_of_one_spec_create_one_container(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.SERVES)

    with ThreadPoolExecutor(4) as threads:
        ran = list(threads.map(runtime.run, [spec] * 4))

    standing = runtime.containers(bench.labels)
    assert [container.id for container in standing] == [ran[0].id]
    assert {container.id for container in ran} == {ran[0].id}


def test_an_engine_that_exits_at_once_is_found_with_its_exit_code(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.CRASHES)

    runtime.run(spec)

    assert eventually(lambda: has_ended(runtime, spec.name), within=STARTS_WITHIN)
    found = runtime.find(spec.name)
    assert found is not None
    assert (found.exit_code, found.oom_killed) == (EXIT_STATUS, False)
    assert runtime.containers(bench.labels) == [found]


def test_an_engine_killed_for_lack_of_memory_is_distinguished_from_a_crash(
    bench: Bench, runtime: ContainerRuntime
) -> None:
    if not bench.limits_memory:
        pytest.skip("this runtime keeps no memory limit")
    spec = bench.spec(Program.GREEDY)

    runtime.run(spec)

    assert eventually(lambda: has_ended(runtime, spec.name), within=timedelta(seconds=30))
    found = runtime.find(spec.name)
    assert found is not None
    assert (found.exit_code, found.oom_killed) == (137, True)


def test_a_port_in_use_by_another_program_raises_port_taken_and_leaves_nothing(
    bench: Bench, runtime: ContainerRuntime
) -> None:
    spec = bench.spec(Program.SERVES)

    with bench.squatting(spec.host_port), pytest.raises(PortTaken) as taken:
        runtime.run(spec)

    assert taken.value.facts["port"] == spec.host_port
    assert runtime.containers(bench.labels) == []


def test_a_port_in_use_by_another_container_raises_port_taken(bench: Bench, runtime: ContainerRuntime) -> None:
    holder = bench.spec(Program.SERVES)
    held = runtime.run(holder)
    assert eventually(lambda: answers(bench, held), within=STARTS_WITHIN)

    with pytest.raises(PortTaken):
        runtime.run(bench.spec(Program.SERVES, host_port=holder.host_port, container_port=holder.container_port))

    assert [container.name for container in runtime.containers(bench.labels)] == [holder.name]


def test_after_a_failed_run_the_same_name_can_be_run(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.SERVES)
    with bench.squatting(spec.host_port), pytest.raises(PortTaken):
        runtime.run(spec)

    container = runtime.run(spec)

    assert eventually(lambda: answers(bench, container), within=STARTS_WITHIN)


def test_a_missing_image_raises_image_not_found_and_leaves_nothing(bench: Bench, runtime: ContainerRuntime) -> None:
    if not bench.has_images:
        pytest.skip("this runtime runs no images")

    with pytest.raises(ImageNotFound):
        runtime.run(bench.spec(Program.SERVES, image=bench.absent_image))

    assert runtime.containers(bench.labels) == []


def test_a_container_can_be_run_by_the_id_of_its_image(bench: Bench, runtime: ContainerRuntime) -> None:
    if not bench.has_images:
        pytest.skip("this runtime runs no images")
    image = runtime.image(bench.image)
    assert image is not None

    container = runtime.run(bench.spec(Program.SERVES, image=image.id))

    assert eventually(lambda: answers(bench, container), within=STARTS_WITHIN)


def test_containers_are_filtered_by_all_given_labels(bench: Bench, runtime: ContainerRuntime) -> None:
    one = bench.spec(Program.COUNTS)
    other = bench.spec(Program.SPEAKS)
    runtime.run(one)
    runtime.run(other)

    names = {container.name for container in runtime.containers(bench.labels)}
    narrowed = runtime.containers({**bench.labels, "aima.program": Program.SPEAKS.value})

    assert names == {one.name, other.name}
    assert [container.name for container in narrowed] == [other.name]
    assert runtime.containers({**bench.labels, "aima.program": "none"}) == []


def test_a_read_only_container_writes_to_its_tmpfs_alone_and_no_more_than_its_size(
    bench: Bench, runtime: ContainerRuntime
) -> None:
    if not bench.isolates:
        pytest.skip("this runtime has no file systems")
    confined = runtime.run(bench.spec(Program.COUNTS, read_only=True, tmpfs={"/tmp": 2 << 20})).name
    free = runtime.run(bench.spec(Program.COUNTS)).name

    assert bench.writes(confined, "/tmp/file", mebibytes=1)
    assert not bench.writes(confined, "/tmp/file", mebibytes=3)
    assert not bench.writes(confined, "/file", mebibytes=1)
    assert not bench.writes(confined, "/www/file", mebibytes=1)
    assert bench.writes(free, "/www/file", mebibytes=1)


def test_what_a_container_has_written_is_listed_on_request(bench: Bench, runtime: ContainerRuntime) -> None:
    if not bench.isolates:
        pytest.skip("this runtime has no file systems")
    name = runtime.run(bench.spec(Program.COUNTS)).name
    assert bench.writes(name, "/www/file", mebibytes=4)

    (measured,) = runtime.containers(bench.labels, sizes=True)
    (listed,) = runtime.containers(bench.labels)

    assert measured.written == 4 << 20
    assert listed.written is None
