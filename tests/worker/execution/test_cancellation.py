"""Cancellation of running operations: by a stop, by a cancel request, and by worker shutdown."""

from __future__ import annotations

from datetime import timedelta
from threading import Event

import pytest
from lab.commands import SERVICE, a_pull, a_start_of, a_stop_of
from lab.desk import desk_of
from lab.parts import eventually

from aima_core.domain.ids import Route
from aima_core.domain.operations import Phase, State
from aima_core.domain.services import Desired, InstanceState
from aima_core.settings import DockerSettings
from aima_worker.attempt import WorkerShutdown
from aima_worker.runtimes.fake.engine import Behaviour
from aima_worker.runtimes.fake.streams import Published

pytestmark = pytest.mark.redis


@pytest.fixture
def settings(settings):
    """With pulls that stall for longer than a test takes."""
    return settings.model_copy(update={"docker": DockerSettings(stall=timedelta(minutes=1))})


def a_stalled_start(desk, runtime):
    runtime.published["far:1"] = Published()
    runtime.stall_next_pull()
    id, finished = desk.begin(a_start_of(image="far:1"))
    desk.until_phase(id, Phase.PULLING)
    return id, finished


def test_a_stop_ends_a_start_in_a_stalled_pull(desk, runtime):
    _, finished = a_stalled_start(desk, runtime)

    stopped = desk.run_command(a_stop_of())

    assert stopped.phases == [Phase.STOPPING, Phase.STOPPED]
    assert finished.result(5).operation.state is State.CANCELLED
    assert stopped.instance.state is InstanceState.STOPPED
    assert desk.containers() == []
    assert desk.leases() == []


def test_a_cancel_ends_a_start_in_a_stalled_pull(desk, runtime):
    id, finished = a_stalled_start(desk, runtime)

    desk.host.operations.request_cancel(id)

    assert finished.result(5).operation.state is State.CANCELLED
    assert desk.leases() == []


def test_a_cancel_ends_a_start_while_it_loads(desk, runtime):
    runtime.next_runs(Behaviour(answers=False))
    id, finished = desk.begin(a_start_of())
    desk.until_phase(id, Phase.LOADING)

    desk.host.operations.request_cancel(id)

    cancelled = finished.result(10)
    assert cancelled.operation.state is State.CANCELLED
    assert (cancelled.instance.desired, cancelled.instance.state) == (Desired.STOPPED, InstanceState.STOPPED)
    assert desk.containers() == []
    assert desk.leases() == []


def test_a_start_cancelled_before_its_claim_ends_without_a_phase(desk):
    id = desk.ask(a_start_of())
    desk.host.operations.request_cancel(id)

    outcome = desk.finish(id)

    assert outcome.phases == [Phase.CANCELLED]
    assert outcome.operation.attempt == 0
    assert desk.containers() == []


def test_two_starts_share_the_pull_of_one_image_and_one_can_be_cancelled(desk, runtime):
    runtime.published["far:1"] = Published()
    runtime.stall_next_pull()  # a second pull would not stall and would finish
    first, first_finished = desk.begin(a_start_of(image="far:1"))
    second, second_finished = desk.begin(a_pull("far:1"))
    for id in (first, second):
        desk.until_phase(id, Phase.PULLING)

    desk.host.operations.request_cancel(first)

    assert first_finished.result(5).operation.state is State.CANCELLED
    assert not second_finished.done()
    desk.host.operations.request_cancel(second)
    assert second_finished.result(5).operation.state is State.CANCELLED


class HaltsAtFirst:
    """A pull that blocks after its first progress until the event is set."""

    def __init__(self, pull, *, until: Event) -> None:
        self._pull, self._until = pull, until
        self.close = pull.close

    def __iter__(self):
        for progress in self._pull:
            yield progress
            self._until.wait(10)


def test_all_starts_that_share_a_pull_report_the_same_progress(desk, runtime, monkeypatch):
    runtime.published["far:1"] = Published()
    pull, pulls, all_are_told = runtime.pull, [], Event()

    def counted(image, *, stall):
        pulls.append(HaltsAtFirst(pull(image, stall=stall), until=all_are_told))
        return pulls[-1]

    monkeypatch.setattr(runtime, "pull", counted)
    waiting = [desk.begin(a_start_of(f"svc-tiny-{number}", image="far:1")) for number in range(4)]
    assert eventually(lambda: all(desk.host.operations.get(id).progress for id, _ in waiting))
    all_are_told.set()

    outcomes = [finished.result(10) for _, finished in waiting]
    last = [[event.progress for event in outcome.events if event.progress][-1] for outcome in outcomes]
    assert len(pulls) == 1
    assert {outcome.operation.state for outcome in outcomes} == {State.SUCCEEDED}
    assert all(each == last[0] for each in last)
    assert last[0].downloaded == last[0].total > 0


@pytest.mark.parametrize("moment", ["before it is made", "as it is made", "once it runs"])
def test_a_stop_without_a_stop_signal_wins_the_race_against_a_start_at_any_step(desk, runtime, monkeypatch, moment):
    run, stopped, made = runtime.run, [], []

    def stop() -> None:
        if not stopped:
            stopped.append(desk.host.services.instance(SERVICE.on(desk.host.name)))
            later = {"desired": Desired.STOPPED, "fence": stopped[0].fence + 1}
            desk.host.services.set_desired(stopped[0].model_copy(update=later))

    def running(spec):
        if moment == "as it is made":
            stop()
        made.append(spec)
        container = run(spec)
        if moment == "once it runs":
            stop()
        return container

    def leased(*said, lease=desk.host.ports.lease, **more):
        if moment == "before it is made":
            stop()
        return lease(*said, **more)

    monkeypatch.setattr(runtime, "run", running)
    monkeypatch.setattr(desk.host.ports, "lease", leased)

    outcome = desk.run_command(a_start_of())

    assert stopped
    assert len(made) == (moment != "before it is made")
    assert outcome.operation.state is State.CANCELLED
    assert outcome.instance.desired is Desired.STOPPED
    assert desk.containers() == []
    assert desk.leases() == []


def test_a_worker_that_shuts_down_releases_its_started_operations(desk, runtime):
    runtime.next_runs(Behaviour(answers=False))
    id, finished = desk.begin(a_start_of())
    desk.until_phase(id, Phase.LOADING)

    desk.host.claims.cancel_all()

    with pytest.raises(WorkerShutdown):
        finished.result(5)
    outcome = desk.outcome(id)
    assert outcome.operation.state is State.QUEUED
    assert len(desk.containers()) == 1


def test_a_pull_of_a_class_operation_is_released_to_the_class_at_shutdown_and_leaves_nothing(desk, runtime):
    runtime.published["far:1"] = Published()
    runtime.stall_next_pull()
    id, finished = desk.begin(a_start_of(image="far:1"), route=Route("cpu.amd64"))
    desk.until_phase(id, Phase.PULLING)

    desk.host.claims.cancel_all()

    assert isinstance(finished.exception(5), WorkerShutdown)
    outcome = desk.outcome(id)
    assert (outcome.operation.state, outcome.operation.host) == (State.QUEUED, None)
    assert (outcome.instance.desired, outcome.instance.state) == (Desired.STOPPED, InstanceState.STOPPED)
    assert desk.host.allocations.held(desk.host.name) == {}


def test_an_unreachable_registry_does_not_delay_the_end_of_a_start(desk, runtime, monkeypatch):
    answered = Event()
    monkeypatch.setattr(runtime, "registry_architectures", lambda _: answered.wait(20) and frozenset())
    id, finished = desk.begin(a_start_of(image="far:1"))
    desk.until_phase(id, Phase.PULLING)

    desk.host.operations.request_cancel(id)

    assert finished.result(10).operation.state is State.CANCELLED
    answered.set()


def test_the_next_worker_resumes_with_the_same_container(desk, runtime, settings, redis):
    runtime.next_runs(Behaviour(answers=False))
    id, finished = desk.begin(a_start_of())
    desk.until_phase(id, Phase.LOADING)
    desk.host.claims.cancel_all()
    assert isinstance(finished.exception(5), WorkerShutdown)
    (before,) = runtime.containers({})

    with desk_of(settings, redis, runtime, probe=lambda _: 200) as next_desk:
        outcome = next_desk.finish(id)

    assert outcome.operation.state is State.SUCCEEDED
    assert outcome.operation.attempt == 2
    assert [container.id for container in runtime.containers({})] == [before.id]


def test_the_next_worker_pulls_again_and_reports_it(desk, runtime, settings, redis):
    id, finished = a_stalled_start(desk, runtime)
    assert eventually(lambda: desk.host.operations.get(id).progress is not None)
    desk.host.claims.cancel_all()
    assert isinstance(finished.exception(5), WorkerShutdown)

    with desk_of(settings, redis, runtime, probe=runtime.probe) as next_desk:
        outcome = next_desk.finish(id)

    pulls = [event.message for event in outcome.events if event.phase is Phase.PULLING and event.message]
    assert outcome.operation.state is State.SUCCEEDED
    assert pulls == ["Pulling far:1", "Pulling far:1 again: the worker that was pulling it shut down"]


def test_a_stop_of_a_service_that_does_not_run_succeeds_at_once(desk):
    first, second = desk.run_command(a_stop_of()), desk.run_command(a_stop_of())

    assert [outcome.operation.state for outcome in (first, second)] == [State.SUCCEEDED] * 2


def test_a_stop_removes_the_container_and_the_lease(desk):
    desk.run_command(a_start_of())

    outcome = desk.run_command(a_stop_of())

    assert outcome.instance.state is InstanceState.STOPPED
    assert desk.containers() == []
    assert desk.leases() == []


def test_a_pull_of_a_present_image_succeeds_at_once(desk):
    outcome = desk.run_command(a_pull("tiny:1"))

    assert outcome.operation.state is State.SUCCEEDED
    assert "tiny:1" in outcome.operation.reason


def test_a_start_superseded_by_a_later_start_leaves_its_container_alone(desk, runtime):
    runtime.next_runs(Behaviour(answers=False))
    first, first_finished = desk.begin(a_start_of())
    desk.until_phase(first, Phase.LOADING)
    second, second_finished = desk.begin(a_start_of())
    desk.until_phase(second, Phase.LOADING)
    (container,) = runtime.containers({})

    runtime.behave(container.name, Behaviour())

    assert first_finished.result(10).operation.state is State.CANCELLED
    assert second_finished.result(10).operation.state is State.SUCCEEDED
    assert [each.id for each in runtime.containers({})] == [container.id]
    assert len(desk.leases()) == 1


def test_a_start_superseded_during_its_pull_does_not_replace_the_later_container(desk, runtime, monkeypatch):
    runtime.published["far:1"] = Published()
    pull, later = runtime.pull, []
    monkeypatch.setattr("aima_worker.operations.start.ROLLBACK_TIMEOUT", timedelta(seconds=1))

    def overtaken(image, *, stall):
        later.append(desk.run_command(a_start_of()))
        return pull(image, stall=stall)

    monkeypatch.setattr(runtime, "pull", overtaken)
    first = desk.run_command(a_start_of(image="far:1"))

    assert first.operation.state is State.CANCELLED
    assert later[0].operation.state is State.SUCCEEDED
    assert [each.image for each in runtime.containers({})] == ["tiny:1"]
    assert first.instance.state is InstanceState.READY
    assert [lease.until for lease in desk.host.ports.all()] == [None]
