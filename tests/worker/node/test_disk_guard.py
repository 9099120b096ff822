"""Disk guard: the engine that writes most is killed before the disk of the Docker Engine is full."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from lab.commands import a_start_of
from lab.desk import Desk, desk_of
from lab.parts import eventually

from aima_core.domain.ids import InstanceId
from aima_core.domain.operations import Phase, State
from aima_core.domain.services import Desired, InstanceState
from aima_core.redis.interface import TextRedis
from aima_core.settings import HostSettings, Settings
from aima_worker.app import start_guarding, stop_guarding
from aima_worker.context import Timings
from aima_worker.node.disk_guard import DiskReading, EngineDisk, disk_levels
from aima_worker.node.facts import host_facts
from aima_worker.reconciler.loop import ReconcileLoop
from aima_worker.runtimes.fake.engine import Behaviour
from aima_worker.runtimes.fake.runtime import FakeRuntime

GB = 1_000_000_000
CHECKED_OFTEN = Timings(disk_check_interval=timedelta(seconds=0.02), restart_delays=(timedelta(),) * 3)
A_MOMENT = timedelta(milliseconds=300)
ALPHA, BETA = "test.svc-tiny-a.alpha", "test.svc-tiny-b.alpha"


class Disk:
    """What statvfs reports: 100 GB, less what the containers have written and what other programs hold."""

    def __init__(self, runtime: FakeRuntime) -> None:
        self.others = 80 * GB
        self._runtime = runtime

    def __call__(self) -> DiskReading:
        held = sum(each.written or 0 for each in self._runtime.containers({}, sizes=True))
        return DiskReading(time.monotonic(), 100 * GB - self.others - held, 100 * GB)


@pytest.fixture
def disk(runtime: FakeRuntime) -> Disk:
    return Disk(runtime)


@pytest.fixture
def desk(settings: Settings, redis: TextRedis, runtime: FakeRuntime, disk: Disk) -> Iterator[Desk]:
    """Its host keeps a reserve of 5 GB and a floor of 2 GB."""
    host = settings.host.model_copy(update={"disk_reserve": 5 * GB, "disk_floor": 2 * GB})
    settings = settings.model_copy(update={"host": host})
    with desk_of(settings, redis, runtime, probe=runtime.probe, disk=disk, timings=CHECKED_OFTEN) as desk:
        reconciler = ReconcileLoop(desk.host)
        start_guarding(desk.host, low_changed=lambda: None, killed=reconciler.wake)
        reconciler.start()
        yield desk
        reconciler.stop()
        stop_guarding(desk.host)


def instance(desk: Desk, name: str) -> Any:
    return desk.host.services.instance(InstanceId(f"svc-tiny-{name}@alpha"))


def failed(desk: Desk, name: str) -> Callable[[], bool]:
    return lambda: instance(desk, name).state is InstanceState.FAILED


@pytest.mark.redis
def test_the_engine_that_has_written_most_is_killed_with_the_numbers_and_its_neighbour_serves_on(
    desk: Desk, runtime: FakeRuntime
) -> None:
    for name in ("a", "b"):
        desk.run_command(a_start_of(f"svc-tiny-{name}"))
    runtime.say(ALPHA, "writing")
    runtime.write(BETA, 2 * GB)

    runtime.write(ALPHA, 17 * GB)

    assert eventually(failed(desk, "a"))
    failure = instance(desk, "a").failure
    assert failure.code == "disk_floor"
    assert "svc-tiny-a was killed: alpha had 1 GB of disk left" in failure.message
    assert "less than its floor of 2 GB. It had written most, 17 GB" in failure.message
    assert failure.message.endswith("1 GB then.")
    assert failure.log_tail == ("writing",)
    assert not eventually(failed(desk, "b"), within=A_MOMENT)


@pytest.mark.redis
def test_the_engine_that_grew_is_killed_before_one_that_has_written_more_long_ago(
    desk: Desk, runtime: FakeRuntime
) -> None:
    for name in ("a", "b"):
        desk.run_command(a_start_of(f"svc-tiny-{name}"))
    runtime.write(ALPHA, 10 * GB)
    runtime.write(BETA, 2 * GB)
    assert eventually(lambda: len(desk.host.disk_guard._written) == 2)

    runtime.write(BETA, 7 * GB)

    assert eventually(failed(desk, "b"))
    assert "It had written most, 9 GB, of that 7 GB in the last 1m." in instance(desk, "b").failure.message
    assert not eventually(failed(desk, "a"), within=A_MOMENT)


@pytest.mark.redis
def test_a_killed_engine_stays_desired_and_is_not_restarted_until_it_is_started_again(
    desk: Desk, runtime: FakeRuntime
) -> None:
    desk.run_command(a_start_of("svc-tiny-a"))

    runtime.write(ALPHA, 19 * GB)

    assert eventually(failed(desk, "a"))
    assert not eventually(lambda: desk.containers() != [], within=A_MOMENT)
    assert instance(desk, "a").desired is Desired.RUNNING
    assert eventually(lambda: desk.host.disk_guard.low is None)
    assert desk.run_command(a_start_of("svc-tiny-a")).operation.state is State.SUCCEEDED


@pytest.mark.redis
def test_an_engine_that_fills_the_disk_while_it_loads_fails_its_start_with_the_reason(
    desk: Desk, runtime: FakeRuntime
) -> None:
    runtime.next_runs(Behaviour(loads_for=timedelta(minutes=1)))
    id, end = desk.begin(a_start_of("svc-tiny-a"))
    desk.until_phase(id, Phase.LOADING)

    runtime.write(ALPHA, 19 * GB)

    assert end.result(30).code == "disk_floor"
    assert (desk.containers(), desk.leases()) == ([], [])


@pytest.mark.redis
def test_no_engine_is_killed_for_what_other_programs_have_written(desk: Desk, runtime: FakeRuntime, disk: Disk) -> None:
    desk.run_command(a_start_of("svc-tiny-a"))
    runtime.write(ALPHA, GB // 4)

    disk.others = 99 * GB

    assert eventually(lambda: desk.host.disk_guard.low is not None)
    assert not eventually(failed(desk, "a"), within=A_MOMENT)


@pytest.mark.redis
def test_a_kill_that_fails_is_retried(desk: Desk, runtime: FakeRuntime, disk: Disk) -> None:
    desk.run_command(a_start_of("svc-tiny-a"))
    runtime.write(ALPHA, 10 * GB)
    assert eventually(lambda: desk.host.disk_guard.low is None)
    reading = disk()
    runtime.away = True
    desk.host.disk_guard._read = lambda: reading._replace(at=time.monotonic(), available=GB)
    assert not eventually(failed(desk, "a"), within=A_MOMENT)

    runtime.away = False

    assert eventually(failed(desk, "a"))


@pytest.mark.redis
def test_below_the_reserve_a_host_takes_no_start_and_takes_them_again_above_it(desk: Desk, disk: Disk) -> None:
    disk.others = 96 * GB
    assert eventually(lambda: desk.host.disk_guard.low is not None)

    waits = desk.run_command(a_start_of("svc-tiny-a"))

    assert waits.operation.state is State.QUEUED
    facts = host_facts(desk.host.settings, desk.host.runtime, disk_low=4 * GB, disk_reserve=5 * GB)
    desk.host.hosts.announce(facts)
    desk.host.hosts.join(desk.host.name, identity="its own", session="its own")
    desk.host.pending_reasons.explain(waits.operation)
    said = desk.outcome(waits.operation.id).events[-1].message
    assert "alpha: 4 GB of disk free, below its reserve of 5 GB" in str(said)
    desk.host.capacity_freed.clear()
    disk.others = 80 * GB
    assert eventually(lambda: desk.host.disk_guard.low is None and desk.host.capacity_freed.is_set())
    assert desk.finish(waits.operation.id).operation.state is State.SUCCEEDED


# Levels and readings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "host", "levels"),
    [
        pytest.param(100 * GB, {}, (5 * GB, 2.5 * GB), id="a twentieth"),
        pytest.param(4000 * GB, {}, (10 * GB, 5 * GB), id="at most 10 GB"),
        pytest.param(100 * GB, {"disk_floor": "7GB"}, (7 * GB, 7 * GB), id="a floor above the reserve"),
        pytest.param(100 * GB, {"disk_reserve": "8GB", "disk_floor": "1GB"}, (8 * GB, GB), id="the operator's"),
    ],
)
def test_the_levels_are_shares_of_the_disk_unless_configured(total: int, host: Any, levels: Any) -> None:
    assert disk_levels(HostSettings.model_validate(host), total) == levels


def test_a_runtime_without_a_disk_of_its_own_has_no_reading(runtime: FakeRuntime) -> None:
    read = EngineDisk(runtime)

    assert read() is None
    runtime.away = True
    assert EngineDisk(runtime)() is None
