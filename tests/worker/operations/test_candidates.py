"""A change is all or nothing: a candidate that fails leaves, or restores, what ran before, by the host alone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from lab.commands import SIGNING_KEY, a_start_of, a_stop_of
from lab.parts import eventually

from aima_core.domain.ids import HostName, ServiceId
from aima_core.domain.operations import Phase, StartService, State
from aima_core.domain.services import Desired, InstanceState, Service
from aima_core.redis import keys
from aima_core.settings import DockerSettings
from aima_core.store.operations import now
from aima_core.store.services import ServiceStore
from aima_core.trust.keys import SigningKey
from aima_core.trust.records import SignedService
from aima_worker.reconciler.loop import ReconcileLoop
from aima_worker.runtimes.fake.engine import Behaviour

pytestmark = pytest.mark.redis
SERVICE = ServiceId("svc-tiny-dial")
INSTANCE = SERVICE.on(HostName("alpha"))
NAME = "test.svc-tiny-dial.alpha"
CREATED = now()


@pytest.fixture
def settings(settings):
    """With pulls that stall for longer than a test takes."""
    return settings.model_copy(update={"docker": DockerSettings(stall=timedelta(minutes=1))})


def a_revision(number: int, **engine: Any) -> StartService:
    """A start of a revision of the service, which carries its signed spec."""
    spec = Service(id=SERVICE, created_at=CREATED, revision=number)
    record = SignedService.of(spec, SigningKey(SIGNING_KEY)).record
    port = engine.pop("port", None)
    keep = engine.pop("keep_failed", False)
    return a_start_of(**engine).model_copy(update={"spec": record, "port": port, "keep_failed": keep})


@pytest.fixture
def services(desk) -> ServiceStore:
    return desk.host.services


@pytest.fixture
def running(desk, runtime):
    """Revision 1, ready."""
    outcome = desk.run_command(a_revision(1))
    assert outcome.operation.state is State.SUCCEEDED
    return outcome


def stored_revision(services: ServiceStore) -> int:
    return services.get(SERVICE).spec.revision


def assert_runs_as_before(desk, runtime, running, services) -> None:
    instance = desk.host.services.instance(SERVICE.on(desk.host.name))
    assert eventually(lambda: runtime.probe(f"{running.instance.endpoint}/health") == 200)
    assert (instance.desired, instance.revision, instance.port) == (Desired.RUNNING, 1, running.instance.port)
    assert desk.containers() == [NAME]
    assert desk.leases() == [running.instance.port]
    assert desk.host.fences.previous(SERVICE) is None
    assert stored_revision(services) == 1


def test_a_candidate_becomes_the_current_revision_when_it_is_ready(desk, running, services):
    desk.run_command(a_revision(2, arguments={"threads": 4}))

    instance = services.instance(SERVICE.on(desk.host.name))
    assert (instance.state, instance.revision, stored_revision(services)) == (InstanceState.READY, 2, 2)
    assert desk.host.fences.previous(SERVICE) is None


def test_a_candidate_that_crashes_brings_the_running_revision_back(desk, runtime, running, services):
    runtime.crash_next(last_words="out of tokens")

    outcome = desk.run_command(a_revision(2, arguments={"threads": 4}))

    assert outcome.code == "container_exited"
    assert "out of tokens" in outcome.operation.failure.log_tail
    assert "On alpha, revision 1 was started again" in outcome.operation.failure.message
    assert_runs_as_before(desk, runtime, running, services)


def test_while_a_candidate_s_image_is_pulled_what_runs_goes_on_serving(desk, runtime, running, services):
    before = services.instance(INSTANCE)
    runtime.stall_next_pull()

    operation, outcome = desk.begin(a_revision(2, image="mirror/tiny:1", serves=["chat"]))
    desk.until_phase(operation, Phase.PULLING)
    pulling = services.instance(INSTANCE)
    desk.host.operations.request_cancel(operation)
    outcome.result(20)

    assert (before.serving, pulling.serving) == (True, True)
    assert (pulling.state, pulling.endpoint, pulling.serves) == (InstanceState.STARTING, before.endpoint, before.serves)
    assert services.instance(INSTANCE).serving
    assert_runs_as_before(desk, runtime, running, services)


def test_an_instance_serves_nothing_from_the_end_of_what_ran_until_its_candidate_is_ready(
    desk, runtime, running, services
):
    runtime.next_runs(Behaviour(answers=False))

    operation, outcome = desk.begin(a_revision(2, serves=["chat"], names="--alias {name}"))
    desk.until_phase(operation, Phase.LOADING)
    loading = services.instance(INSTANCE)
    runtime.behave(NAME, Behaviour())
    outcome.result(20)
    ready = services.instance(INSTANCE)

    assert (loading.serving, loading.state) == (False, InstanceState.STARTING)
    assert (ready.serving, ready.serves, ready.names, ready.model) == (True, ("chat",), ("dial",), "dial")


def test_a_stopped_instance_does_not_serve(desk, running, services):
    desk.run_command(a_stop_of())

    assert not services.instance(INSTANCE).serving


def test_a_candidate_on_another_port_that_fails_leaves_the_port_and_the_spec_as_before(
    desk, runtime, running, services
):
    runtime.next_runs(Behaviour(answers=False))

    outcome = desk.run_command(a_revision(2, port=18577, health_check={"timeout": "200ms"}))

    assert outcome.code == "health_timeout"
    assert_runs_as_before(desk, runtime, running, services)


def test_a_candidate_on_another_port_that_is_ready_releases_the_former_port(desk, running):
    desk.run_command(a_revision(2, port=18577))

    assert desk.leases() == [18577]


def test_while_a_candidate_loads_port_and_memory_of_the_running_revision_stay_reserved(desk, runtime, redis, services):
    first = desk.run_command(a_revision(1, requires={"platforms": ["linux/amd64", "linux/arm64"], "memory": "2GB"}))
    runtime.next_runs(Behaviour(answers=False))
    small = a_revision(2, port=18577, requires={"platforms": ["linux/amd64", "linux/arm64"], "memory": "1GB"})

    operation, outcome = desk.begin(small)
    desk.until_phase(operation, Phase.LOADING)
    leases, held = desk.leases(), desk.host.allocations.held(desk.host.name)[SERVICE]
    desk.host.operations.request_cancel(operation)
    outcome.result(20)

    assert sorted(leases) == sorted([first.instance.port, 18577])
    assert held.memory == 2_000_000_000
    assert desk.host.allocations.held(desk.host.name)[SERVICE].memory == 2_000_000_000
    assert_runs_as_before(desk, runtime, first, services)


def test_a_candidate_that_needs_less_gives_the_rest_back_when_it_is_ready(desk, running):
    desk.run_command(a_revision(2, requires={"platforms": ["linux/amd64", "linux/arm64"], "memory": "1MB"}))

    assert desk.host.allocations.held(desk.host.name)[SERVICE].memory == 1_000_000


def test_a_candidate_that_fails_before_it_touched_anything_leaves_the_container_itself(
    desk, runtime, running, services
):
    before = runtime.find(NAME)
    runtime.published["missing:1"] = None

    outcome = desk.run_command(a_revision(2, image="missing:1", arguments={"threads": 4}))

    assert outcome.operation.state is State.FAILED
    assert "On alpha, revision 1 runs on as before" in outcome.operation.failure.message
    assert runtime.find(NAME).id == before.id
    assert_runs_as_before(desk, runtime, running, services)


def test_a_failed_candidate_is_kept_on_request_and_a_later_start_replaces_it(desk, runtime, running, services):
    runtime.crash_next(last_words="look at me")

    outcome = desk.run_command(a_revision(2, arguments={"threads": 4}, keep_failed=True))
    ReconcileLoop(desk.host).reconcile_once()

    instance = services.instance(SERVICE.on(desk.host.name))
    assert (outcome.code, instance.state, instance.kept) == ("container_exited", InstanceState.FAILED, True)
    assert "is kept for debugging" in outcome.operation.failure.message
    assert desk.containers() == [NAME]
    assert stored_revision(services) == 1
    assert desk.run_command(a_revision(3)).operation.state is State.SUCCEEDED


def test_a_stop_ends_candidate_and_running_revision(desk, runtime, running, services):
    runtime.next_runs(Behaviour(answers=False))
    operation, outcome = desk.begin(a_revision(2, arguments={"threads": 4}))
    desk.until_phase(operation, Phase.LOADING)

    desk.run_command(a_stop_of())
    outcome.result(20)

    assert (desk.containers(), desk.leases()) == ([], [])
    assert desk.host.fences.previous(SERVICE) is None
    assert services.instance(SERVICE.on(desk.host.name)).state is InstanceState.STOPPED


def test_a_later_start_supersedes_one_that_loads_which_names_it_and_what_ran_before_can_still_come_back(
    desk, runtime, running, services
):
    runtime.next_runs(Behaviour(answers=False))
    operation, outcome = desk.begin(a_revision(2, arguments={"threads": 4}))
    desk.until_phase(operation, Phase.LOADING)
    runtime.crash_next()

    later = desk.run_command(a_revision(3, arguments={"threads": 5}))

    ended = outcome.result(20)
    assert (ended.operation.state, ended.code) == (State.CANCELLED, "superseded")
    assert later.operation.id in ended.operation.failure.message
    assert later.code == "container_exited"
    assert_runs_as_before(desk, runtime, running, services)


@pytest.mark.parametrize("lost", ["operation", "everything"])
def test_a_change_that_was_abandoned_halfway_is_undone_by_the_reconciler(desk, runtime, running, services, redis, lost):
    """As after a crash of the worker and a loss of Redis' records, with every API node away."""
    runtime.next_runs(Behaviour(answers=False))
    operation, outcome = desk.begin(a_revision(2, arguments={"threads": 4}))
    desk.until_phase(operation, Phase.LOADING)
    previous = desk.host.fences.previous(SERVICE)
    desk.host.operations.request_cancel(operation)
    outcome.result(20)
    desk.host.fences.remember(SERVICE, previous)
    runtime.remove(NAME, grace=desk.host.timings.stable_after * 0)
    instance = services.instance(SERVICE.on(desk.host.name))
    services.update_status(instance.model_copy(update={"state": InstanceState.STARTING, "operation": operation}))
    redis.delete(keys.operation(operation))
    if lost == "everything":
        redis.delete(keys.instance(instance.id), keys.INSTANCES, keys.instances_on(desk.host.name))

    loop = ReconcileLoop(desk.host)
    assert eventually(lambda: loop.reconcile_once() or desk.containers() == [NAME])

    assert_runs_as_before(desk, runtime, running, services)
