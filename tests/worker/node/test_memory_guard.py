"""Memory guard: an engine that takes its host below the memory floor is killed, while it loads and while it serves."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest
from lab.commands import a_start_of, a_stop_of
from lab.desk import desk_of
from lab.parts import eventually

from aima_core.domain.ids import InstanceId
from aima_core.domain.operations import Phase, State
from aima_core.domain.services import Desired, InstanceState
from aima_core.errors import BrokerUnavailable
from aima_worker.app import start_guarding, stop_guarding
from aima_worker.context import Timings
from aima_worker.node.facts import host_facts
from aima_worker.node.guarding import Violations
from aima_worker.node.memory_guard import MemoryGuard, MemoryLevels, MemoryReading, levels_of, read_memory
from aima_worker.reconciler.loop import ReconcileLoop
from aima_worker.runtime import Container, Status
from aima_worker.runtimes.fake.engine import Behaviour

GB = 1_000_000_000
MB = 1_000_000
CHECKED_OFTEN = Timings(memory_check_interval=timedelta(seconds=0.02), restart_delays=(timedelta(),) * 3)
LOADING = Behaviour(stdout=b"shard 1 of 2\n", loads_for=timedelta(minutes=1))
A_MOMENT = timedelta(milliseconds=300)


class Memory:
    """What the kernel reports."""

    reported: Callable[[], int] = staticmethod(lambda: 10 * GB)
    stalled = timedelta()

    def __call__(self) -> MemoryReading:
        return MemoryReading(time.monotonic(), self.reported(), self.stalled)

    def says(self, available: int) -> None:
        self.reported = lambda: available


@pytest.fixture
def memory():
    return Memory()


@pytest.fixture
def desk(settings, redis, runtime, memory):
    """Its host keeps a reserve of 3 GB and a floor of 2 GB."""
    reported = settings.host.model_copy(update={"memory_floor": 2 * GB})
    settings = settings.model_copy(update={"host": reported})
    with desk_of(settings, redis, runtime, probe=runtime.probe, memory=memory, timings=CHECKED_OFTEN) as desk:
        desk.host.memory_guard._levels = MemoryLevels(reserve=3 * GB, floor=2 * GB)
        reconciler = ReconcileLoop(desk.host)
        start_guarding(desk.host, low_changed=lambda: None, killed=reconciler.wake)
        reconciler.start()
        yield desk
        reconciler.stop()
        stop_guarding(desk.host)


def begin_loading(desk, runtime, service: str = "svc-tiny-dial") -> Any:
    runtime.next_runs(LOADING)
    id, end = desk.begin(a_start_of(service))
    desk.until_phase(id, Phase.LOADING)
    assert eventually(lambda: any(event.lines for event in desk.outcome(id).events))
    return end


def instance(desk, service: str = "svc-tiny-dial") -> Any:
    return desk.host.services.instance(InstanceId(f"{service}@alpha"))


def failed(desk, service: str = "svc-tiny-dial") -> bool:
    return instance(desk, service).state is InstanceState.FAILED


@pytest.mark.redis
def test_a_serving_engine_below_the_floor_is_killed_with_the_numbers_of_the_last_minutes(desk, runtime, memory):
    desk.run_command(a_start_of())
    runtime.say("test.svc-tiny-dial.alpha", "a long prompt")
    assert eventually(lambda: len(desk.host.memory_guard._series) > 3)

    memory.says(1_500_000_000)

    assert eventually(lambda: failed(desk))
    failure = instance(desk).failure
    assert failure.code == "host_memory_floor"
    assert "svc-tiny-dial was killed while it served: alpha had 1.5 GB of memory left, less than" in failure.message
    assert "floor of 2 GB" in failure.message
    assert re.search(r"Available: (10 GB \d+s before, )*10 GB 2s before, 1\.5 GB then\.", failure.message)
    assert failure.log_tail == ("a long prompt",)
    assert (desk.containers(), desk.leases()) == ([], [])


@pytest.mark.redis
def test_a_killed_engine_stays_desired_and_is_not_restarted_until_it_is_started_again(desk, runtime, memory):
    desk.run_command(a_start_of())
    memory.says(GB)
    assert eventually(lambda: failed(desk))

    memory.says(10 * GB)

    assert not eventually(lambda: desk.containers() != [] or not failed(desk), within=A_MOMENT)
    assert instance(desk).desired is Desired.RUNNING
    assert eventually(lambda: desk.host.memory_guard.low is None)
    assert desk.run_command(a_start_of()).operation.state is State.SUCCEEDED
    assert not eventually(lambda: failed(desk), within=A_MOMENT)


@pytest.mark.redis
def test_an_engine_killed_while_redis_is_away_is_not_restarted_and_its_reason_is_recorded_later(
    desk, runtime, memory, monkeypatch
):
    def away(*_: object) -> None:
        raise BrokerUnavailable(detail="connection refused")

    desk.run_command(a_start_of())
    assert eventually(lambda: len(desk.host.memory_guard._engines) == 1)
    engine = next(iter(desk.host.memory_guard._engines.values()))
    engine.kill = lambda: runtime.end("test.svc-tiny-dial.alpha", exit_code=137)  # as a signal does
    monkeypatch.setattr(desk.host.services, "own_instances", away)

    memory.says(GB)

    assert eventually(lambda: runtime.find("test.svc-tiny-dial.alpha").status is Status.EXITED)
    memory.says(10 * GB)
    assert not eventually(
        lambda: runtime.find("test.svc-tiny-dial.alpha").status is Status.RUNNING, within=timedelta(seconds=1)
    )
    monkeypatch.undo()
    runtime.say("test.svc-tiny-dial.alpha", "a change wakes the reconciler")
    assert eventually(lambda: failed(desk))
    assert instance(desk).failure.code == "host_memory_floor"


@pytest.mark.redis
def test_of_two_serving_engines_the_one_started_last_is_killed_and_the_other_serves_on(desk, runtime, memory):
    for name in ("a", "b"):
        desk.run_command(a_start_of(f"svc-tiny-{name}"))
    assert eventually(lambda: len(desk.host.memory_guard._engines) == 2)

    memory.reported = lambda: 3 * GB - 800 * MB * len(runtime.containers({}))

    assert eventually(lambda: failed(desk, "svc-tiny-b"))
    assert "It was started last." in instance(desk, "svc-tiny-b").failure.message
    assert not eventually(lambda: failed(desk, "svc-tiny-a"), within=A_MOMENT)


@pytest.mark.redis
def test_a_kill_that_fails_is_retried(desk, runtime, memory):
    desk.run_command(a_start_of())
    assert eventually(lambda: len(desk.host.memory_guard._engines) == 1)
    runtime.away = True
    memory.says(GB)
    assert not eventually(lambda: failed(desk), within=A_MOMENT)

    runtime.away = False

    assert eventually(lambda: failed(desk))


@pytest.mark.redis
def test_below_the_reserve_a_host_takes_no_start_and_takes_them_again_above_it(desk, memory):
    memory.says(2_500_000_000)
    assert eventually(lambda: desk.host.memory_guard.low is not None)

    waits = desk.run_command(a_start_of(requires={"platforms": ["linux/amd64", "linux/arm64"], "memory": "1B"}))

    assert waits.operation.state is State.QUEUED
    desk.host.hosts.announce(host_facts(desk.host.settings, desk.host.runtime, memory_low=2_500_000_000))
    desk.host.hosts.join(desk.host.name, identity="its own", session="its own")
    desk.host.pending_reasons.explain(waits.operation)
    assert (
        "alpha: 2.5 GB of memory available, below its reserve of" in desk.outcome(waits.operation.id).events[-1].message
    )
    memory.says(3_100_000_000)
    assert not eventually(lambda: desk.host.memory_guard.low is None, within=A_MOMENT)
    desk.host.capacity_freed.clear()
    memory.says(4 * GB)
    assert eventually(lambda: desk.host.memory_guard.low is None and desk.host.capacity_freed.is_set())
    assert desk.finish(waits.operation.id).operation.state is State.SUCCEEDED


# Loading --------------------------------------------------------------------------------------------------------------


@pytest.mark.redis
def test_a_loading_engine_below_the_memory_floor_is_killed_with_the_reason(desk, runtime, memory):
    end = begin_loading(desk, runtime)

    memory.says(1_500_000_000)
    outcome = end.result(30)

    assert outcome.code == "host_memory_floor"
    assert "was killed while it loaded: alpha had 1.5 GB of memory left" in outcome.operation.failure.message
    assert "floor of 2 GB" in outcome.operation.failure.message
    assert outcome.operation.failure.log_tail == ("shard 1 of 2",)
    assert outcome.instance.state is InstanceState.FAILED
    assert (desk.containers(), desk.leases()) == ([], [])
    assert desk.host.allocations.held(desk.host.name) == {}


@pytest.mark.redis
def test_an_engine_above_the_floor_is_left_alone(desk, runtime, memory):
    memory.says(3 * GB)
    runtime.next_runs(Behaviour(loads_for=timedelta(milliseconds=300)))
    outcome = desk.run_command(a_start_of())

    memory.says(2 * GB)

    assert outcome.operation.state is State.SUCCEEDED
    assert not eventually(lambda: desk.containers() == [], within=A_MOMENT)


@pytest.mark.redis
def test_of_two_loading_engines_the_second_continues_once_the_first_has_freed_enough(desk, runtime, memory):
    ends = [begin_loading(desk, runtime, f"svc-tiny-{name}") for name in ("a", "b")]

    both_look = Barrier(2)

    def reported() -> int:
        left = 3 * GB - GB * len(runtime.containers({}))
        with suppress(BrokenBarrierError):
            both_look.wait(0.3)
        return left

    memory.reported = reported

    assert eventually(lambda: any(end.done() for end in ends))
    assert not eventually(lambda: desk.containers() == [], within=timedelta(milliseconds=300))
    for name in ("a", "b"):
        desk.run_command(a_stop_of(f"svc-tiny-{name}"))


# Which engine, and when -----------------------------------------------------------------------------------------------

_HOLDS = "import sys; held = []; [held.append(b'x' * int(line)) or print('held', flush=True) for line in sys.stdin]"
_PARENT = "import subprocess, sys; subprocess.run(sys.argv[1:])"
LEVELS = MemoryLevels(reserve=3 * GB, floor=2 * GB)


class Engine:
    """A process that allocates on request, as the engine `svc-tiny-NAME`."""

    def __init__(self, name: str, *, started: int) -> None:
        self.id = InstanceId(f"svc-tiny-{name}@alpha")
        self.priority = 0
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", _PARENT, sys.executable, "-S", "-c", _HOLDS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.container = Container(
            id=f"id of {name}",
            name=name,
            status=Status.RUNNING,
            labels={},
            image="tiny:1",
            started_at=datetime(2026, 11, 28, 12, started, tzinfo=UTC),
            pid=self.process.pid,
        )

    def allocate(self, size: int) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{size}\n")
        self.process.stdin.flush()
        self.process.stdout.readline()


@contextmanager
def engines(*names: str) -> Iterator[list[Engine]]:
    """The last one was started last."""
    made = [Engine(name, started=number) for number, name in enumerate(names)]
    try:
        yield made
    finally:
        for engine in made:
            engine.process.kill()
            engine.process.communicate()


def guard_of(memory: Memory, running: list[Engine]) -> MemoryGuard:
    guard = MemoryGuard(LEVELS, memory, violations=Violations(), interval=timedelta(seconds=1))
    containers = {engine.id: engine.container for engine in running}
    by_name = {each.name: each for each in containers.values()}
    guard.observe(containers, by_name.get, {engine.id: engine.priority for engine in running})
    return guard


def test_the_engine_that_grew_most_is_killed_before_the_one_that_was_started_last(memory):
    with engines("greedy", "other") as (greedy, other):
        guard = guard_of(memory, [greedy, other])
        memory.says(2_080_000_000)
        guard.check()
        greedy.allocate(120 * MB)
        other.allocate(10 * MB)

        memory.says(1_950_000_000)
        guard.check()

        assert eventually(lambda: greedy.process.poll() is not None)
        assert other.process.poll() is None
        violation = guard._violations.of(greedy.id)
        assert violation is not None
        assert "It grew most, by 1" in str(violation)


def test_growth_that_does_not_explain_the_loss_leaves_the_engine_started_last(memory):
    with engines("first", "last") as (first, last):
        guard = guard_of(memory, [first, last])
        memory.says(8 * GB)
        guard.check()
        first.allocate(60 * MB)

        memory.says(1_900_000_000)
        guard.check()

        assert eventually(lambda: last.process.poll() is not None)
        assert first.process.poll() is None


def test_of_the_lowest_priority_the_engine_started_last_is_killed_where_no_growth_explains_the_loss(memory):
    with engines("first", "second", "preferred") as (first, second, preferred):
        preferred.priority = 5
        guard = guard_of(memory, [first, second, preferred])

        memory.says(1_900_000_000)
        guard.check()

        assert eventually(lambda: second.process.poll() is not None)
        assert (first.process.poll(), preferred.process.poll()) == (None, None)
        assert "It was started last, of those with the lowest priority." in str(guard._violations.of(second.id))


def test_an_engine_that_takes_the_memory_is_killed_whatever_its_priority(memory):
    with engines("greedy", "other") as (greedy, other):
        greedy.priority = 5
        guard = guard_of(memory, [greedy, other])
        memory.says(2_080_000_000)
        guard.check()
        greedy.allocate(120 * MB)

        memory.says(1_950_000_000)
        guard.check()

        assert eventually(lambda: greedy.process.poll() is not None)
        assert other.process.poll() is None


def test_after_a_kill_the_guard_waits_for_the_memory_before_it_kills_another(memory):
    with engines("first", "last") as (first, last):
        guard = guard_of(memory, [first, last])
        memory.says(GB)

        guard.check()
        guard.check()

        assert eventually(lambda: last.process.poll() is not None)
        assert first.process.poll() is None


@pytest.mark.parametrize(("available", "killed"), [(2_500_000_000, True), (3_500_000_000, False)])
def test_stalled_tasks_count_as_the_floor_below_the_reserve_only(memory, available, killed):
    with engines("only") as (only,):
        guard = guard_of(memory, [only])
        readings = iter([(0.0, timedelta()), (2.1, timedelta(seconds=0.8))])
        guard._read = lambda: MemoryReading(*((at := next(readings))[:1]), available, at[1])

        guard.check()
        guard.check()

        assert eventually(lambda: (only.process.poll() is not None) is killed)
        if killed:
            assert "less than its reserve of 3 GB (all tasks waited for memory 38% of the time)" in str(
                guard._violations.of(only.id)
            )


# The kernel's files ---------------------------------------------------------------------------------------------------


def test_memory_and_pressure_are_read_from_the_files_given(tmp_path: Path):
    meminfo, pressure = tmp_path / "meminfo", tmp_path / "memory"
    meminfo.write_text("MemTotal: 8000 kB\nMemFree: 10 kB\nMemAvailable:    2000 kB\n")
    pressure.write_text(
        "some avg10=1.00 avg60=0.00 avg300=0.00 total=9000000\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=1500000\n"
    )

    assert read_memory(meminfo, pressure)[1:] == (2_048_000, timedelta(seconds=1.5))
    assert read_memory(meminfo, tmp_path / "none")[1:] == (2_048_000, timedelta())
    assert read_memory().available > 0


@pytest.mark.parametrize(
    ("unified", "measured", "reported", "levels"),
    [
        pytest.param(True, True, None, (GB, GB // 2), id="half the reserve where memory is shared"),
        pytest.param(False, True, None, (GB, GB // 4), id="a quarter where a GPU has its own"),
        pytest.param(True, False, None, None, id="none where the memory is only said to be there"),
        pytest.param(False, False, "3GB", (3 * GB, 3 * GB), id="the operator's word"),
        pytest.param(True, True, "300MB", (GB, 300 * MB), id="the operator's floor below the reserve"),
    ],
)
def test_the_levels_are_shares_of_the_memory_unless_configured(settings, runtime, unified, measured, reported, levels):
    said = settings.host.model_validate({"name": "alpha", "memory_floor": reported})
    facts = host_facts(settings, runtime).model_copy(update={"unified_memory": unified, "memory_reserve": GB})

    assert levels_of(said, facts, measured=measured) == levels


@pytest.mark.parametrize(
    ("gpu", "floor"),
    [
        pytest.param({"kind": "gb10", "name": "NVIDIA GB10"}, 5 * GB, id="a GB10 shares the memory"),
        pytest.param({"kind": "cuda", "name": "NVIDIA L4", "memory": "24GB"}, 1_250_000_000, id="an L4 has its own"),
    ],
)
def test_a_host_with_a_gpu_of_its_own_memory_has_the_guard_with_lower_levels(settings, runtime, gpu, floor):
    reported = settings.host.model_validate({"name": "alpha", "facts": {"memory": "100GB", "accelerators": [gpu]}})
    facts = host_facts(settings.model_copy(update={"host": reported}), runtime)

    levels = levels_of(reported, facts, measured=True)

    assert levels == MemoryLevels(reserve=facts.memory_reserve, floor=floor)
