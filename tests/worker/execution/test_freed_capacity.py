"""Freed capacity wakes pending operations at once, however it was freed, instead of at the next interval."""

from __future__ import annotations

import ast
from datetime import timedelta
from pathlib import Path

import pytest
from lab.commands import SERVICE, a_pull, a_start_of, enqueue_signed
from lab.parts import eventually

import aima_worker
from aima_core.domain.ids import HostName, Route
from aima_core.domain.operations import Phase, State
from aima_core.domain.resources import Allocation
from aima_core.queue.transport import DroppedMessages
from aima_core.redis import keys
from aima_core.store.hosts import HostStore
from aima_worker.context import Timings
from aima_worker.execution.executor import execute
from aima_worker.execution.redelivery import RedeliveryLoop
from aima_worker.node.facts import host_facts
from aima_worker.node.heartbeat import Heartbeat
from aima_worker.reconciler.loop import ReconcileLoop
from aima_worker.runtimes.fake.engine import Behaviour

pytestmark = pytest.mark.redis
NAME = "test.svc-tiny-dial.alpha"
ALPHA = HostName("alpha")


@pytest.fixture
def timings():
    return Timings(orphaned_after=timedelta(), resources_interval=timedelta(), restart_delays=())


@pytest.fixture
def facts(desk):
    """The facts that the host announces next."""
    has = {"memory": 10**12, "memory_reserve": 0, "routes": ("host.alpha", "cpu.amd64")}
    return host_facts(desk.host.settings, desk.host.runtime).model_copy(update=has)


@pytest.fixture
def heartbeat(desk, facts):
    return Heartbeat(
        desk.host,
        lambda: facts,
        identity=facts.identity,
        session="here",
        dropped=DroppedMessages(),
        redis_is_new=lambda: None,
        displaced=lambda _: None,
    )


@pytest.fixture
def reconciler(desk):
    return ReconcileLoop(desk.host)


@pytest.fixture
def freed(desk):
    """Whether the redelivery loop was woken since the last call."""

    def asked() -> bool:
        was_set = desk.host.capacity_freed.is_set()
        desk.host.capacity_freed.clear()
        return was_set

    return asked


def test_a_pending_start_is_claimed_as_soon_as_the_one_that_held_the_slot_has_failed(
    desk, redis, runtime, heartbeat, monkeypatch
):
    monkeypatch.setattr("aima_worker.execution.redelivery.REDELIVERY_INTERVAL", timedelta(hours=1))
    heartbeat._join()
    heartbeat.send()
    runtime.next_runs(Behaviour(loads_for=timedelta(minutes=1)))
    loading, end = desk.begin(a_start_of("svc-tiny-other"))
    desk.until_phase(loading, Phase.LOADING)
    waits = enqueue_signed(desk.host.operations, a_start_of(), route=Route("cpu.amd64"))
    busy = [enqueue_signed(desk.host.operations, a_start_of(f"svc-tiny-{number}")) for number in range(3)]
    for each in busy:
        desk.host.claim_store.claim(each.id, ALPHA, desk.host.capacity())
    execute(desk.host, waits.id)
    redis.delete(keys.queue("host.alpha"))
    redelivery = RedeliveryLoop(desk.host)
    redelivery.start()
    assert eventually(lambda: not desk.host.capacity_freed.is_set())

    desk.host.operations.request_cancel(loading)

    assert end.result(10).operation.state is State.CANCELLED
    assert eventually(lambda: redis.llen(keys.queue("host.alpha")) == 1)
    redelivery.stop()


def test_an_ended_pull_frees_its_slot(desk, freed):
    pulled = desk.run_command(a_pull())

    assert freed()
    assert desk.host.allocations.busy_on([ALPHA]) == {ALPHA: 0}
    assert pulled.operation.state is State.SUCCEEDED


def test_a_failed_instance_frees_its_allocation(desk, runtime, reconciler, freed):
    desk.run_command(a_start_of())
    freed()

    runtime.end(NAME, exit_code=1)
    reconciler.reconcile_once()

    assert freed()
    assert desk.host.allocations.held(ALPHA) == {}


def test_a_released_orphaned_allocation_frees_capacity(desk, reconciler, freed):
    desk.host.allocations.keep(ALPHA, SERVICE, Allocation(memory=1, gpus=(), loading=False, fence=1))
    freed()

    reconciler.reconcile_once()

    assert freed()
    assert desk.host.allocations.held(ALPHA) == {}


def test_a_docker_engine_that_answers_again_wakes_pending_operations(desk, runtime, reconciler, freed):
    runtime.away = True
    reconciler.start()
    assert eventually(desk.host.engine_unavailable.is_set)
    assert eventually(freed)

    runtime.away = False

    assert eventually(freed)
    reconciler.stop()


def test_new_facts_wake_pending_operations_once_redis_has_them(desk, heartbeat, freed, monkeypatch):
    """More free disk or another image: obstacles are computed from the announced facts (stale read)."""
    announced_before = []
    monkeypatch.setattr(
        HostStore, "announce", lambda *_: announced_before.append(desk.host.capacity_freed.is_set()), raising=True
    )
    heartbeat._join()
    freed()

    heartbeat.send()

    assert announced_before == [False]
    assert freed()


def test_a_resumed_host_wakes_pending_operations(desk, heartbeat, freed):
    heartbeat._join()
    heartbeat.send()
    desk.host.hosts.drain(ALPHA)
    heartbeat.send()
    freed()

    desk.host.hosts.resume(ALPHA)
    heartbeat.send()

    assert freed()


def test_allocations_are_released_in_one_place_only():
    root = Path(aima_worker.__file__).parent

    def releases(path: Path) -> bool:
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        return any(
            isinstance(call, ast.Attribute)
            and call.attr in ("release", "mark_loaded")
            and isinstance(call.value, ast.Attribute)
            and call.value.attr == "allocations"
            for call in calls
        )

    assert [path.name for path in root.rglob("*.py") if releases(path)] == ["context.py"]
