"""Records and containers are reconciled whatever was lost; a missing record never removes a running container."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from lab.commands import SERVICE, a_spec_of, a_start_of, a_stop_of, granted_to
from lab.parts import eventually

from aima_core.domain.ids import HostName, OperationId, ServiceId, SignedText
from aima_core.domain.operations import Phase, State
from aima_core.domain.resources import Allocation
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.errors import DockerUnavailable, UnknownOperation, UnknownService
from aima_core.redis import keys
from aima_core.store.operations import now
from aima_worker.context import Timings
from aima_worker.operations.container_spec import container_spec
from aima_worker.reconciler.loop import ReconcileLoop
from aima_worker.runtime import Status
from aima_worker.runtimes.fake.engine import Behaviour

pytestmark = pytest.mark.redis
NAME = "test.svc-tiny-dial.alpha"
ALPHA = HostName("alpha")
SOON = timedelta(seconds=0.1)
TIMINGS = Timings(stable_after=SOON, orphaned_after=SOON, mass_loss_delay=SOON, resources_interval=timedelta())
RARELY = pytest.mark.parametrize(
    "timings", [pytest.param(replace(TIMINGS, resources_interval=timedelta(minutes=1)), id="resources each minute")]
)
LOADS = Behaviour(loads_for=timedelta(minutes=1))


@pytest.fixture
def timings() -> Timings:
    return TIMINGS


@pytest.fixture
def watch(desk) -> ReconcileLoop:
    return ReconcileLoop(desk.host)


@pytest.fixture
def ready(desk):
    return desk.run_command(a_start_of()).instance


@pytest.fixture
def forget(shared_redis):
    return shared_redis.empty


def record(desk, service: str = SERVICE) -> Instance | None:
    return desk.host.services.instance(ServiceId(service).on(ALPHA))


def looks_until(watch, fact) -> bool:
    def after_a_look() -> bool:
        watch.reconcile_once()
        return fact()

    return eventually(after_a_look, within=timedelta(seconds=30))


def looks_for_a_while(watch) -> None:
    """Longer than every debounced condition."""
    begun = now()
    assert looks_until(watch, lambda: now() - begun > 4 * SOON)


def lost_while_loading(desk, runtime, forget, manners=LOADS, **engine) -> OperationId:
    """A start that was running when Redis lost its data."""
    runtime.next_runs(manners)
    id, end = desk.begin(a_start_of(**engine))
    desk.until_phase(id, Phase.LOADING)
    forget()
    assert end.result(10).code == "operation_lost"
    return id


def load_anew(runtime) -> None:
    """The health timeout counts from here: on a busy machine, the loss may have taken longer than that."""
    spec = runtime.spec_of(NAME)
    runtime.remove(NAME, grace=timedelta())
    runtime.next_runs(LOADS)
    runtime.run(spec)


# Redis has lost its data ------------------------------------------------------------------------------------------


def test_a_running_container_gets_back_its_record_its_lease_and_its_allocation(desk, watch, ready, runtime, forget):
    container, held = runtime.find(NAME), desk.host.allocations.held(ALPHA)
    leases = desk.leases()

    forget()
    watch.reconcile_once()

    assert record(desk).model_copy(update={"since": ready.since}) == ready
    assert desk.host.allocations.held(ALPHA) == held
    assert [(lease.port, lease.until) for lease in desk.host.ports.all()] == [(leases[0], None)]
    assert runtime.find(NAME) == container


def test_the_port_of_a_container_is_leased_before_its_record_is_there(desk, watch, ready, forget, monkeypatch):
    """Else a reader sees a ready instance whose port a placement may lease."""
    adopt, leases = desk.host.services.adopt, []
    monkeypatch.setattr(
        desk.host.services, "adopt", lambda *args, **kw: leases.extend(desk.leases()) or adopt(*args, **kw)
    )

    forget()
    watch.reconcile_once()

    assert leases == [ready.port]


@RARELY
def test_leases_and_allocations_are_restored_together_with_the_records(desk, watch, ready, forget):
    watch.reconcile_once()

    forget()
    watch.reconcile_once()

    assert desk.leases() == [ready.port]
    assert list(desk.host.allocations.held(ALPHA)) == [SERVICE]


@RARELY
def test_a_redis_reset_makes_the_next_pass_check_every_container(desk, watch, ready):
    watch.reconcile_once()
    desk.host.release_resources(SERVICE, fence=ready.fence)
    watch.reconcile_once()
    held_before = desk.leases()

    watch.on_redis_reset()
    watch.reconcile_once()

    assert held_before == []
    assert desk.leases() == [ready.port]


def test_a_record_written_concurrently_is_not_overwritten(desk, watch, ready, forget):
    forget()
    watch.reconcile_once()
    late = ready.model_copy(update={"state": InstanceState.UNHEALTHY})

    adopted = desk.host.services.adopt(late, seen_with=None)

    assert not adopted
    assert record(desk).state is InstanceState.READY


def test_a_lost_service_is_restored_from_the_labels_of_its_container(desk, watch, ready, forget):
    forget()
    watch.reconcile_once()

    assert desk.host.services.get(SERVICE) == a_spec_of(SERVICE)
    assert json.loads(desk.host.services.status(SERVICE))["id"] == SERVICE


def test_a_newer_service_record_that_exists_is_not_overwritten(desk, watch, ready, forget):
    forget()
    watch.reconcile_once()
    written = a_spec_of(SERVICE, replicas=3, revision=2)
    desk.host.services.put(written)
    desk.host.services.set_desired(ready)
    forget()
    desk.host.services.put(written)

    watch.reconcile_once()

    assert record(desk).state is InstanceState.READY
    assert desk.host.services.get(SERVICE) == written


def test_operations_requested_after_the_loss_have_higher_fences(desk, watch, runtime, forget):
    for _ in range(3):
        ready = desk.run_command(a_start_of().model_copy(update={"replace": True})).instance
    forget()
    watch.reconcile_once()

    stopped = desk.run_command(a_stop_of())
    while_stopped = desk.containers()
    again = desk.run_command(a_start_of())

    assert stopped.operation.fence > ready.fence
    assert stopped.instance.state is InstanceState.STOPPED
    assert while_stopped == []
    assert again.operation.state is State.SUCCEEDED
    assert again.instance.endpoint == ready.endpoint


def test_the_fence_counter_is_raised_even_if_the_records_exist(desk, watch, ready, redis):
    redis.delete(keys.FENCE)

    watch.reconcile_once()

    assert desk.run_command(a_start_of("svc-tiny-other")).operation.fence > ready.fence


def test_another_start_can_lease_a_port_at_once(desk, ready, forget):
    forget()

    outcome = desk.run_command(a_start_of("svc-tiny-other"))

    assert outcome.operation.state is State.SUCCEEDED
    assert outcome.instance.port != ready.port


def test_no_record_is_created_for_an_operation_that_had_ended(desk, watch, ready, forget):
    forget()
    watch.reconcile_once()

    with pytest.raises(UnknownOperation):
        desk.host.operations.get(ready.operation)


def test_a_running_operation_without_a_record_fails_as_lost(desk, runtime, forget):
    id = lost_while_loading(desk, runtime, forget)

    lost = desk.host.operations.get(id)
    (event,) = desk.host.operations.events(id)

    assert (lost.state, lost.failure.code, lost.service) == (State.FAILED, "operation_lost", SERVICE)
    assert (event.phase, event.failure.code) == (Phase.FAILED, "operation_lost")
    assert event.seq == lost.seq > 3
    assert [each.id for each in desk.host.operations.page(limit=10).items] == [id]


def test_an_operation_whose_worker_also_died_is_restored_as_lost_from_its_container(desk, watch, runtime, forget):
    id = lost_while_loading(desk, runtime, forget)
    forget()

    watch.reconcile_once()

    assert desk.host.operations.get(id).failure.code == "operation_lost"
    assert record(desk).state is InstanceState.STARTING


def test_an_engine_that_has_failed_its_check_for_long_is_restored_as_unhealthy(desk, watch, runtime, forget):
    desk.run_command(a_start_of(health_check={"timeout": "100ms"}))
    runtime.behave(NAME, Behaviour(answers=False))
    started_at = runtime.find(NAME).started_at
    assert eventually(lambda: now() - started_at > timedelta(milliseconds=150))

    forget()
    watch.reconcile_once()

    assert record(desk).state is InstanceState.UNHEALTHY
    assert desk.containers() == [NAME]


def test_an_engine_that_exited_meanwhile_is_restarted(desk, watch, ready, runtime, forget):
    runtime.end(NAME, exit_code=1)
    forget()

    assert looks_until(watch, lambda: runtime.find(NAME).status is Status.RUNNING)
    assert looks_until(watch, lambda: record(desk).state is InstanceState.READY)


def test_a_record_whose_last_writes_are_lost_follows_the_container_of_the_later_start(desk, watch, ready, redis):
    service, older = ServiceId(SERVICE), redis.dump(keys.instance(ready.id))
    spec = redis.get(keys.service(service))
    newer = a_start_of(port=18577).model_copy(update={"spec": SignedText(**dict(a_spec_of(revision=2).record))})
    later = desk.run_command(newer).instance

    redis.restore(keys.instance(ready.id), 0, older, replace=True)
    redis.set(keys.service(service), spec)

    assert looks_until(watch, lambda: record(desk).model_copy(update={"since": later.since}) == later)
    assert desk.host.services.get(service).spec.revision == 2
    assert desk.leases() == [18577]


# Abandoned starts -------------------------------------------------------------------------------------------------


def test_an_abandoned_start_becomes_ready_once_its_engine_answers(desk, watch, runtime, forget):
    lost_while_loading(desk, runtime, forget)
    watch.reconcile_once()
    assert record(desk).state is InstanceState.STARTING

    runtime.behave(NAME, Behaviour())
    watch.reconcile_once()

    assert record(desk).state is InstanceState.READY
    assert not desk.host.allocations.held(ALPHA)[SERVICE].loading


def test_an_abandoned_start_that_never_answers_is_removed_after_its_health_timeout(desk, watch, runtime, forget):
    lost_while_loading(desk, runtime, forget, health_check={"timeout": "1s"})
    load_anew(runtime)
    watch.reconcile_once()
    assert desk.containers() == [NAME]

    assert looks_until(watch, lambda: record(desk).state is InstanceState.FAILED)

    assert record(desk).failure.code == "health_timeout"
    assert (desk.containers(), desk.leases(), desk.host.allocations.held(ALPHA)) == ([], [], {})


def test_an_abandoned_start_whose_engine_exits_fails_with_its_last_log_lines(desk, watch, runtime, forget):
    lost_while_loading(desk, runtime, forget)
    watch.reconcile_once()
    runtime.end(NAME, exit_code=3, last_words="no such shard\n")

    watch.reconcile_once()

    assert record(desk).failure.code == "container_exited"
    assert record(desk).failure.log_tail == ("no such shard",)
    assert desk.containers() == []


def test_an_abandoned_start_without_a_container_fails(desk, watch, runtime, forget):
    lost_while_loading(desk, runtime, forget)
    watch.reconcile_once()
    runtime.remove(NAME, grace=timedelta())

    watch.reconcile_once()
    at_first = record(desk).state
    assert looks_until(watch, lambda: record(desk).state is InstanceState.FAILED)

    assert at_first is InstanceState.STARTING
    assert (desk.leases(), desk.host.allocations.held(ALPHA)) == ([], {})


def test_a_queued_start_is_left_alone(desk, watch):
    start = desk.host.operations.get(desk.ask(a_start_of()))
    asked_for = Instance(
        id=SERVICE.on(ALPHA),
        desired=Desired.RUNNING,
        fence=start.fence,
        state=InstanceState.STARTING,
        operation=start.id,
        since=now(),
    )
    desk.host.services.replace_desired(asked_for)

    looks_for_a_while(watch)

    assert record(desk) == asked_for


def test_a_start_that_runs_on_this_host_keeps_its_resources(desk, watch, runtime):
    runtime.next_runs(LOADS)
    id, end = desk.begin(a_start_of(health_check={"timeout": "1m"}))
    desk.until_phase(id, Phase.LOADING)

    looks_for_a_while(watch)

    assert record(desk).state is InstanceState.STARTING
    assert desk.containers() == [NAME]
    assert len(desk.leases()) == len(desk.host.allocations.held(ALPHA)) == 1
    runtime.behave(NAME, Behaviour())
    end.result(10)


# Undesired containers ---------------------------------------------------------------------------------------------


def stopped_by(instance: Instance, fence: int) -> Instance:
    return instance.model_copy(update={"desired": Desired.STOPPED, "fence": fence})


def test_a_container_whose_stop_was_lost_is_stopped(desk, watch, ready):
    desk.host.services.set_desired(stopped_by(ready, ready.fence + 1))

    watch.reconcile_once()
    at_first = desk.containers()
    assert looks_until(watch, lambda: record(desk).state is InstanceState.STOPPED)

    assert at_first == [NAME]
    assert (desk.containers(), desk.leases(), desk.host.allocations.held(ALPHA)) == ([], [], {})
    assert record(desk).is_down


def test_a_stale_stop_record_does_not_stop_a_newer_container(desk, watch, ready, forget):
    later = desk.run_command(a_start_of().model_copy(update={"replace": True})).instance
    forget()
    desk.host.services.replace_desired(stopped_by(ready, ready.fence))

    assert looks_until(watch, lambda: record(desk).desired is Desired.RUNNING)

    assert (record(desk).state, record(desk).fence) == (InstanceState.READY, later.fence)
    assert desk.containers() == [NAME]


def test_a_failed_instance_whose_container_runs_becomes_ready_again(desk, watch, ready):
    desk.host.services.update_status(ready.model_copy(update={"state": InstanceState.FAILED, "endpoint": None}))

    assert looks_until(watch, lambda: record(desk).state is InstanceState.READY)

    assert record(desk).endpoint == ready.endpoint


# Leases and allocations -------------------------------------------------------------------------------------------


def test_a_missing_lease_or_allocation_of_a_container_is_restored(desk, watch, ready):
    held = desk.host.allocations.held(ALPHA)
    desk.host.release_resources(SERVICE, fence=ready.fence)
    assert (desk.leases(), desk.host.allocations.held(ALPHA)) == ([], {})

    watch.reconcile_once()

    assert [(lease.port, lease.until) for lease in desk.host.ports.all()] == [(ready.port, None)]
    assert desk.host.allocations.held(ALPHA) == held


def holds_something(desk, service: str = "svc-tiny-gone") -> None:
    desk.host.ports.persist(ServiceId(service).on(ALPHA), 18550, fence=1)
    desk.host.allocations.keep(ALPHA, ServiceId(service), Allocation(memory=5, fence=1))


def test_an_orphaned_lease_or_allocation_is_released_but_not_in_the_first_pass(desk, watch):
    holds_something(desk)

    watch.reconcile_once()
    at_first = desk.leases()
    assert looks_until(watch, lambda: desk.leases() == [])

    assert at_first == [18550]
    assert desk.host.allocations.held(ALPHA) == {}


def test_nothing_is_released_while_the_docker_engine_does_not_answer(desk, watch, runtime):
    holds_something(desk)
    watch.reconcile_once()
    runtime.away = True

    def looks_in_vain() -> bool:
        with pytest.raises(DockerUnavailable):
            watch.reconcile_once()
        return False

    assert not eventually(looks_in_vain, within=3 * SOON)
    assert desk.leases() == [18550]

    runtime.away = False
    assert looks_until(watch, lambda: desk.leases() == [])


# Stale reads ------------------------------------------------------------------------------------------------------


SERVICES = ("svc-tiny-a", "svc-tiny-b", "svc-tiny-c")


@pytest.fixture
def several(desk):
    return [desk.run_command(a_start_of(service)).instance for service in SERVICES]


def states(desk) -> set[InstanceState]:
    return {record(desk, service).state for service in SERVICES}


def test_several_containers_that_vanish_at_once_are_checked_again_before_they_fail(desk, watch, runtime, several):
    for name in desk.containers():
        runtime.remove(name, grace=timedelta())

    watch.reconcile_once()
    at_first, leases_at_first = states(desk), len(desk.leases())
    assert looks_until(watch, lambda: states(desk) == {InstanceState.FAILED})

    assert at_first == {InstanceState.READY}
    assert leases_at_first == len(SERVICES)
    assert {record(desk, service).failure.code for service in SERVICES} == {"container_removed"}


def test_an_empty_listing_is_not_trusted_while_the_containers_can_be_inspected(
    desk, watch, runtime, several, monkeypatch
):
    monkeypatch.setattr(runtime, "containers", lambda _: [])

    looks_for_a_while(watch)

    assert states(desk) == {InstanceState.READY}
    assert len(desk.leases()) == len(SERVICES)
    assert all(runtime.find(f"test.{service}.alpha") for service in SERVICES)


def test_a_worker_that_has_not_joined_yet_changes_no_records(desk, watch, ready, runtime):
    runtime.remove(NAME, grace=timedelta())

    watch.start(records=False)
    unjudged = not eventually(lambda: record(desk).state is not InstanceState.READY, within=timedelta(seconds=0.5))
    watch.enable_records()

    assert unjudged
    assert eventually(lambda: record(desk).state is InstanceState.FAILED)
    watch.stop()


# Unrecognized containers ------------------------------------------------------------------------------------------


def run_beside(desk, name: str, port: int, **labels: str) -> None:
    granted = granted_to(a_start_of())
    spec = container_spec(desk.host, a_start_of(), image="tiny:1", directory=None, port=port, granted=granted)
    renamed = spec.model_copy(update={"name": name, "labels": {**spec.labels, **labels}})
    desk.host.runtime.run(renamed)


def test_unrecognized_containers_are_reported_and_left_alone(desk, watch, runtime):
    run_beside(desk, "odd-command", 18560, **{"aima.command": "from the future"})
    run_beside(desk, NAME, 18561, **{"aima.host": "beta"})
    run_beside(desk, "a-copy", 18562)
    run_beside(desk, "not-ours", 18563, **{"aima.installation": "other", "aima.command": "?"})

    looks_for_a_while(watch)

    assert watch.unrecognized == ("a-copy", "odd-command", NAME)
    assert {runtime.find(name).status for name in desk.containers()} == {Status.RUNNING}
    assert len(desk.containers()) == 4
    with pytest.raises(UnknownService):
        desk.host.services.get(SERVICE)


# Cost of a pass ---------------------------------------------------------------------------------------------------


@RARELY
def test_a_pass_without_changes_sends_few_redis_commands(desk, watch, ready, redis):
    watch.reconcile_once()

    before = redis.info("stats")["total_commands_processed"]
    for _ in range(5):
        watch.reconcile_once()
    asked = redis.info("stats")["total_commands_processed"] - before - 1

    assert asked <= 5 * 3  # the instances' names; in one round trip, the drained hosts and the record
