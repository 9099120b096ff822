"""Supervision of ready instances: exited engines are restarted a few times, removed ones fail, healthy ones stay."""

from __future__ import annotations

from datetime import timedelta

import pytest
from lab.commands import a_start_of, a_stop_of
from lab.parts import eventually

from aima_core.domain.ids import InstanceId
from aima_core.domain.operations import State
from aima_core.domain.services import InstanceState
from aima_core.errors import BrokerUnavailable, DockerUnavailable, EngineRefused
from aima_worker.context import Timings
from aima_worker.reconciler.loop import ReconcileLoop
from aima_worker.reconciler.supervision import FAILED_CHECKS, RestartTracker
from aima_worker.runtime import Status
from aima_worker.runtimes.fake.engine import Behaviour

pytestmark = pytest.mark.redis
NAME = "test.svc-tiny-dial.alpha"


@pytest.fixture
def reported() -> list[bool]:
    return []


@pytest.fixture
def timings() -> Timings:
    return Timings(restart_delays=(timedelta(), timedelta(), timedelta()))


@pytest.fixture
def watch(desk, reported) -> ReconcileLoop:
    return ReconcileLoop(desk.host, facts_changed=lambda: reported.append(not desk.host.engine_unavailable.is_set()))


@pytest.fixture
def ready(desk):
    return desk.run_command(a_start_of()).instance


def now(desk, instance):
    return desk.host.services.instance(instance.id)


def test_a_healthy_instance_is_left_alone(desk, watch, ready, runtime):
    before = runtime.find(NAME)

    watch.reconcile_once()

    assert now(desk, ready) == ready
    assert runtime.find(NAME) == before


def test_a_crashed_engine_is_restarted_on_its_port_and_its_crash_is_reported(desk, watch, ready, runtime):
    runtime.end(NAME, exit_code=139, last_words="segmentation fault\n")

    watch.reconcile_once()
    restarted = now(desk, ready)
    watch.reconcile_once()

    assert restarted.state is InstanceState.RESTARTING
    assert "exit code 139" in restarted.failure.message
    assert "segmentation fault" in restarted.failure.log_tail
    assert (now(desk, ready).state, now(desk, ready).failure) == (InstanceState.READY, None)
    assert now(desk, ready).endpoint == ready.endpoint
    assert runtime.find(NAME).status is Status.RUNNING


@pytest.mark.parametrize(("oom_killed", "how"), [(True, "out of memory"), (False, "exit code 139")])
def test_an_engine_that_keeps_crashing_fails_with_the_reason_and_leaves_nothing(
    desk, watch, ready, runtime, oom_killed, how
):
    said = [f"so hungry {number}" for number in range(150)]
    for _ in range(len(desk.host.timings.restart_delays)):
        runtime.end(NAME, exit_code=139, oom_killed=oom_killed)
        watch.reconcile_once()
        watch.reconcile_once()
    assert now(desk, ready).state is InstanceState.READY

    runtime.end(NAME, exit_code=139, oom_killed=oom_killed, last_words="\n".join(said) + "\n")
    watch.reconcile_once()

    failed = now(desk, ready)
    assert failed.state is InstanceState.FAILED
    assert failed.failure.code == "engine_died"
    assert how in failed.failure.message
    assert failed.failure.log_tail == tuple(said[-100:])
    assert desk.containers() == []
    assert desk.leases() == []


def test_the_budget_allows_three_restarts_in_ten_minutes_and_forgets_older_ones():
    clock = [0.0]
    budget = RestartTracker(Timings().restart_delays, clock=lambda: clock[0])
    instance = InstanceId("svc-tiny-dial@alpha")
    for _ in range(3):
        assert budget.plan(instance, fence=1)
        clock[0] += budget.time_to_next().total_seconds()
        budget.record(instance)
    third = clock[0]

    clock[0] = 10 * 60
    assert not budget.plan(instance, fence=1)
    assert budget.made(instance) == 3
    clock[0] = third + 10 * 60
    assert budget.plan(instance, fence=1)
    assert budget.made(instance) == 1


def test_a_later_start_has_a_restart_budget_of_its_own(desk, watch, ready, runtime):
    for _ in range(len(desk.host.timings.restart_delays)):
        runtime.end(NAME, exit_code=139)
        watch.reconcile_once()
        watch.reconcile_once()
    desk.run_command(a_start_of())

    runtime.end(NAME, exit_code=139)
    watch.reconcile_once()

    assert now(desk, ready).state is InstanceState.RESTARTING
    assert runtime.find(NAME).status is Status.RUNNING


@pytest.mark.parametrize("timings", [Timings(restart_delays=(timedelta(minutes=1),))])
def test_the_planned_restart_of_a_stopped_instance_is_dropped(desk, watch, ready, runtime):
    restarts = watch._supervisor.restarts
    runtime.end(NAME, exit_code=1)
    watch.reconcile_once()
    assert restarts.time_to_next() < timedelta.max
    desk.run_command(a_stop_of())

    watch.reconcile_once()

    assert restarts.time_to_next() == timedelta.max


def test_a_container_removed_by_hand_fails_its_instance(desk, watch, ready, runtime):
    runtime.remove(NAME, grace=timedelta())

    watch.reconcile_once()

    assert now(desk, ready).state is InstanceState.FAILED
    assert now(desk, ready).failure.code == "container_removed"
    assert desk.leases() == []


def test_an_instance_whose_container_cannot_be_removed_fails_once_it_can_be(desk, watch, ready, runtime, monkeypatch):
    refusals, remove = [EngineRefused(runtime="docker", detail="device busy")], runtime.remove
    monkeypatch.setattr(runtime, "remove", lambda *_, **how: _raise(refusals.pop()) if refusals else remove(*_, **how))
    for _ in range(3):
        runtime.end(NAME, exit_code=139)
        watch.reconcile_once()
        watch.reconcile_once()
    runtime.end(NAME, exit_code=139)

    watch.reconcile_once()
    refused = now(desk, ready)
    watch.reconcile_once()

    assert (refused.state, refused.failure.code) == (InstanceState.STOPPING, "engine_died")
    assert (now(desk, ready).state, now(desk, ready).failure.code) == (InstanceState.FAILED, "engine_died")
    assert (desk.containers(), desk.leases()) == ([], [])


def _raise(error):
    raise error


def test_an_engine_that_fails_several_checks_is_unhealthy_until_it_answers(desk, watch, ready, runtime):
    runtime.behave(NAME, Behaviour(answers=False))
    for _ in range(FAILED_CHECKS - 1):
        watch.reconcile_once()
    assert now(desk, ready).state is InstanceState.READY

    watch.reconcile_once()
    unhealthy = now(desk, ready)
    watch.reconcile_once()
    assert now(desk, ready) == unhealthy
    runtime.behave(NAME, Behaviour())
    watch.reconcile_once()

    assert (unhealthy.state, unhealthy.failure.code) == (InstanceState.UNHEALTHY, "engine_unhealthy")
    assert f"health check at {ready.endpoint}/health fails" in unhealthy.failure.message
    assert (now(desk, ready).state, now(desk, ready).failure) == (InstanceState.READY, None)


def test_an_unavailable_docker_engine_is_reported_for_the_host_and_fails_no_instance(
    desk, watch, reported, ready, runtime
):
    watch.start()
    runtime.away = True
    assert eventually(lambda: reported == [False])
    assert now(desk, ready) == ready

    runtime.away = False
    assert eventually(lambda: reported == [False, True])

    assert now(desk, ready) == ready
    watch.stop()


def test_a_host_claims_no_start_while_its_docker_engine_is_unavailable(desk, watch, reported, runtime):
    watch.start()
    runtime.away = True
    assert eventually(lambda: reported == [False])

    waits = desk.run_command(a_start_of())
    runtime.away = False
    assert eventually(lambda: reported == [False, True])
    started = desk.finish(waits.operation.id)

    assert (waits.operation.state, waits.operation.attempt) == (State.QUEUED, 0)
    assert "alpha: no Docker Engine answers" in waits.operation.reason
    assert started.operation.state is State.SUCCEEDED
    watch.stop()


def test_a_pass_while_the_docker_engine_is_unavailable_changes_nothing(desk, watch, ready, runtime):
    runtime.away = True

    with pytest.raises(DockerUnavailable):
        watch.reconcile_once()

    assert now(desk, ready) == ready


def test_a_stopped_service_is_not_restarted(desk, watch, ready, runtime):
    desk.run_command(a_stop_of())

    watch.reconcile_once()

    assert desk.containers() == []
    assert now(desk, ready).state is InstanceState.STOPPED


def test_a_container_event_triggers_a_pass_at_once(desk, watch, ready, runtime):
    watch.start()

    runtime.end(NAME, exit_code=1)

    assert eventually(lambda: runtime.find(NAME).status is Status.RUNNING)
    watch.stop()


def test_a_crashed_engine_is_restarted_while_redis_is_unavailable(desk, watch, ready, runtime, monkeypatch):
    runtime.end(NAME, exit_code=255)

    def away(*_: object) -> None:
        raise BrokerUnavailable(detail="no network")

    monkeypatch.setattr(desk.host.services, "own_instances", away)
    with pytest.raises(BrokerUnavailable):
        watch.reconcile_once()

    assert runtime.find(NAME).status is Status.RUNNING
