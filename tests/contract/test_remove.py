"""The contract of `ContainerRuntime.remove`."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from contract.bench import Bench, Program
from contract.test_run import STARTS_WITHIN, answers, has_ended
from lab.parts import eventually

from aima_worker.runtime import ContainerRuntime

GRACE = timedelta(seconds=1)
AT_ONCE_SECONDS = 8
"""On a busy machine; less than the grace of Docker Engine, which is 10 s."""


def said(runtime: ContainerRuntime, name: str) -> list[str]:
    with runtime.logs(name, follow=False) as log:
        return [line.text for line in log]


def test_a_removed_container_is_no_longer_found(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.SERVES)
    runtime.run(spec)

    runtime.remove(spec.name, grace=GRACE)

    assert runtime.find(spec.name) is None
    assert runtime.containers(bench.labels) == []


def test_removing_a_missing_container_does_nothing(runtime: ContainerRuntime) -> None:
    runtime.remove("aima-bench-nobody", grace=GRACE)


def test_removing_twice_does_nothing_more(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.SERVES)
    runtime.run(spec)
    runtime.remove(spec.name, grace=GRACE)

    runtime.remove(spec.name, grace=GRACE)

    assert runtime.find(spec.name) is None


def test_an_exited_container_can_be_removed(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.CRASHES)
    runtime.run(spec)
    assert eventually(lambda: has_ended(runtime, spec.name), within=STARTS_WITHIN)

    runtime.remove(spec.name, grace=GRACE)

    assert runtime.find(spec.name) is None


def test_a_container_that_exits_on_sigterm_is_removed_before_its_grace_ends(
    bench: Bench, runtime: ContainerRuntime
) -> None:
    spec = bench.spec(Program.SERVES)
    container = runtime.run(spec)
    assert eventually(lambda: answers(bench, container), within=STARTS_WITHIN)
    began = time.monotonic()

    runtime.remove(spec.name, grace=timedelta(seconds=30))

    assert time.monotonic() - began < 10


def test_a_container_that_ignores_sigterm_is_killed_after_the_grace(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.STUBBORN)
    runtime.run(spec)
    assert eventually(lambda: said(runtime, spec.name) == ["deaf"])
    began = time.monotonic()

    runtime.remove(spec.name, grace=GRACE)

    assert runtime.find(spec.name) is None
    assert 1 <= time.monotonic() - began < 1 + AT_ONCE_SECONDS


def test_zero_grace_kills_at_once(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.STUBBORN)
    runtime.run(spec)
    assert eventually(lambda: said(runtime, spec.name) == ["deaf"])
    began = time.monotonic()

    runtime.remove(spec.name, grace=timedelta(0))

    assert runtime.find(spec.name) is None
    assert time.monotonic() - began < AT_ONCE_SECONDS


def test_the_port_is_free_when_the_removal_returns(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.SERVES)
    container = runtime.run(spec)
    assert eventually(lambda: answers(bench, container), within=STARTS_WITHIN)

    runtime.remove(spec.name, grace=GRACE)

    with bench.squatting(spec.host_port):
        pass
    again = runtime.run(bench.spec(Program.SERVES, host_port=spec.host_port, container_port=spec.container_port))
    assert eventually(lambda: answers(bench, again), within=STARTS_WITHIN)


def test_concurrent_removals_of_one_container_all_succeed(bench: Bench, runtime: ContainerRuntime) -> None:
    spec = bench.spec(Program.SERVES)
    runtime.run(spec)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: runtime.remove(spec.name, grace=GRACE), range(4)))

    assert runtime.find(spec.name) is None


def test_only_the_named_container_is_removed(bench: Bench, runtime: ContainerRuntime) -> None:
    goes, stays = bench.spec(Program.SERVES), bench.spec(Program.COUNTS)
    runtime.run(goes)
    runtime.run(stays)

    runtime.remove(goes.name, grace=GRACE)

    assert [container.name for container in runtime.containers(bench.labels)] == [stays.name]
