"""Memory watchdog: only a loading engine that takes the host below its memory floor is killed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest
from lab.commands import a_start_of, a_stop_of
from lab.desk import desk_of
from lab.parts import eventually

from aima_core.domain.operations import Phase, State
from aima_core.domain.services import InstanceState
from aima_worker.context import Timings
from aima_worker.node.facts import host_facts
from aima_worker.node.memory_guard import floor_of
from aima_worker.runtimes.fake.engine import Behaviour

pytestmark = pytest.mark.redis
GB = 1_000_000_000
CHECKED_OFTEN = Timings(memory_check_interval=timedelta(seconds=0.02))
LOADING = Behaviour(stdout=b"shard 1 of 2\n", loads_for=timedelta(seconds=5))


class Memory:
    """The available memory that the kernel reports."""

    reported: Callable[[], int] = staticmethod(lambda: 10 * GB)

    def __call__(self) -> int:
        return self.reported()


@pytest.fixture
def memory():
    return Memory()


@pytest.fixture
def desk(settings, redis, runtime, memory):
    reported = settings.host.model_copy(update={"memory_floor": 2 * GB})
    settings = settings.model_copy(update={"host": reported})
    with desk_of(settings, redis, runtime, probe=runtime.probe, available=memory, timings=CHECKED_OFTEN) as desk:
        yield desk


def begin_loading(desk, runtime, service: str = "svc-tiny-dial") -> Any:
    runtime.next_runs(LOADING)
    id, end = desk.begin(a_start_of(service))
    desk.until_phase(id, Phase.LOADING)
    assert eventually(lambda: any(event.lines for event in desk.outcome(id).events))
    return end


def test_a_loading_engine_below_the_memory_floor_is_killed_with_the_reason(desk, runtime, memory):
    end = begin_loading(desk, runtime)

    memory.reported = lambda: 1_500_000_000
    outcome = end.result(3)

    assert outcome.code == "memory_floor"
    assert "alpha had 1.5 GB of memory left" in outcome.operation.failure.message
    assert "floor of 2 GB" in outcome.operation.failure.message
    assert outcome.operation.failure.log_tail == ("shard 1 of 2",)
    assert outcome.instance.state is InstanceState.FAILED
    assert (desk.containers(), desk.leases()) == ([], [])
    assert desk.host.allocations.held(desk.host.name) == {}


def test_a_loading_engine_above_the_floor_is_left_alone(desk, runtime, memory):
    memory.reported = lambda: 2 * GB
    runtime.next_runs(Behaviour(loads_for=timedelta(milliseconds=300)))

    outcome = desk.run_command(a_start_of())

    assert outcome.operation.state is State.SUCCEEDED


def test_a_loaded_engine_is_left_alone(desk, runtime, memory):
    desk.run_command(a_start_of())

    memory.reported = lambda: GB

    assert not eventually(lambda: desk.containers() == [], within=timedelta(milliseconds=200))


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


@pytest.mark.parametrize(
    ("unified", "measured", "reported", "floor"),
    [
        pytest.param(True, True, None, GB // 2, id="half the reserve where memory is shared"),
        pytest.param(False, True, None, None, id="none where it is not"),
        pytest.param(True, False, None, None, id="none where the memory is only said to be there"),
        pytest.param(False, False, "3GB", 3 * GB, id="the operator's word"),
    ],
)
def test_the_memory_floor_is_a_share_of_the_memory_unless_configured(
    settings, runtime, unified, measured, reported, floor
):
    said = settings.host.model_validate({"name": "alpha", "memory_floor": reported})
    facts = host_facts(settings, runtime).model_copy(update={"unified_memory": unified, "memory_reserve": GB})

    assert floor_of(said, facts, measured=measured) == floor
