"""What a newer API node or worker has written: unknown fields are dropped, and a newer version is left alone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from lab.commands import SERVICE, a_start_of, a_stop_of, granted_to

from aima_core.domain.catalog import Engine, HealthCheck, Limits, Model, Requirements
from aima_core.domain.ids import HostName, ServiceId
from aima_core.domain.operations import StartService, State
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.domain.wire import WIRE_VERSION
from aima_core.errors import NewerVersion
from aima_core.store.operations import now
from aima_core.trust import orders
from aima_worker.context import Timings
from aima_worker.operations.container_spec import WIRE_LABEL, container_spec
from aima_worker.operations.managed import recognize
from aima_worker.reconciler.loop import ReconcileLoop
from aima_worker.runtime import ContainerSpec, Status
from aima_worker.runtimes.process.files import SPEC, write
from aima_worker.runtimes.process.run_record import RunRecord

NAME = "test.svc-tiny-dial.alpha"
INSTANCE = ServiceId(SERVICE).on(HostName("alpha"))
SOON = timedelta(seconds=0.1)
TIMINGS = Timings(stable_after=SOON, orphaned_after=SOON, mass_loss_delay=SOON, resources_interval=timedelta())
pytestmark = pytest.mark.redis


class NewerCheck(HealthCheck):
    warm_up: str = "one request"


class NewerRequirements(Requirements):
    interconnect: str | None = "nvlink"


class NewerLimits(Limits):
    files: int | None = 4096


class NewerEngine(Engine):
    health_check: NewerCheck
    requires: NewerRequirements
    limits: NewerLimits = NewerLimits(pids=99)
    modalities: tuple[str, ...] = ("chat",)


class NewerModel(Model):
    revision: str = "main"


class NewerStart(StartService):
    """As the API node of a later version sends it: every noun has a field more."""

    engine: NewerEngine
    model: NewerModel | None = None
    canary: bool = False


class NewerSpec(ContainerSpec):
    read_only: bool = False


def a_newer_start() -> NewerStart:
    model = NewerModel.model_validate({"name": "dial", "type": "test", "size": "1MB", "engines": ["tiny-test"]})
    return NewerStart.model_validate({**a_start_of().model_dump(), "model": model.model_dump()})


def spec_of(desk, command: StartService, **labels: str) -> ContainerSpec:
    granted = granted_to(command)
    spec = container_spec(desk.host, command, image="tiny:1", directory=None, port=18560, granted=granted)
    return spec.model_copy(update={"labels": {**spec.labels, **labels}})


@pytest.fixture
def timings() -> Timings:
    return TIMINGS


def test_unknown_fields_of_a_command_are_dropped_at_every_level():
    newer = a_newer_start()

    read = StartService.model_validate_json(newer.model_dump_json())

    assert "warm_up" in newer.model_dump_json()
    assert read.engine.model_dump() == newer.engine.model_dump(
        exclude={"modalities": True, "health_check": {"warm_up"}, "requires": {"interconnect"}, "limits": {"files"}}
    )
    assert read.model is not None
    assert read.model.engines == ("tiny-test",)


def test_a_worker_executes_the_start_of_a_newer_api_node(desk):
    outcome = desk.run_command(a_newer_start())

    assert outcome.operation.state is State.SUCCEEDED, outcome.operation.failure


def test_an_order_of_a_newer_version_is_refused_with_what_to_upgrade_and_holds_nothing(desk, runtime, monkeypatch):
    monkeypatch.setattr(orders, "WIRE_VERSION", WIRE_VERSION + 1)  # for what is signed, not for what is read

    outcome = desk.run_command(a_start_of())

    assert (outcome.operation.state, outcome.code) == (State.FAILED, NewerVersion.code)
    assert "Upgrade AIMA on that host" in outcome.operation.failure.hint
    assert runtime.containers({}) == []
    assert desk.host.allocations.held(desk.host.name) == {}


def test_a_worker_that_is_rolled_back_adopts_the_containers_that_the_newer_one_has_started(desk, runtime):
    watch = ReconcileLoop(desk.host)
    runtime.run(spec_of(desk, a_newer_start()))

    watch.reconcile_once()

    assert watch.unrecognized == ()
    assert desk.host.services.instance(INSTANCE).state is InstanceState.READY


def test_labels_carry_their_version(desk, runtime):
    container = runtime.run(spec_of(desk, a_start_of()))

    assert container.labels[WIRE_LABEL] == str(WIRE_VERSION)
    assert recognize(desk.host, container) is not None


@pytest.mark.parametrize("state", [InstanceState.READY, InstanceState.STARTING])
def test_a_desired_container_with_labels_of_a_newer_version_is_reported_and_left_alone(state, desk, runtime):
    instance = Instance(id=INSTANCE, desired=Desired.RUNNING, fence=1, state=state, since=now())
    desk.host.services.replace_desired(instance)
    runtime.run(spec_of(desk, a_start_of(), **{WIRE_LABEL: str(WIRE_VERSION + 1)}))
    watch = ReconcileLoop(desk.host)

    begun = now()
    while now() - begun < 4 * SOON:  # longer than every debounced condition
        watch.reconcile_once()

    assert watch.unrecognized == (NAME,)
    assert runtime.find(NAME).status is Status.RUNNING
    assert desk.host.services.instance(INSTANCE).state is state


def test_a_container_with_labels_of_a_newer_version_can_be_stopped(desk, runtime):
    runtime.run(spec_of(desk, a_start_of(), **{WIRE_LABEL: str(WIRE_VERSION + 1)}))

    outcome = desk.run_command(a_stop_of())

    assert outcome.operation.state is State.SUCCEEDED
    assert runtime.find(NAME) is None


def test_a_run_record_of_a_newer_worker_is_read(tmp_path):
    newer = NewerSpec(name=NAME, image="", command=("serve",), host_address="::1", host_port=1, container_port=1)
    write(tmp_path / SPEC, {"id": "x", "spec": newer.model_dump(mode="json")})

    read = RunRecord.of(tmp_path)

    assert read is not None
    assert read.spec.name == NAME


def test_a_new_optional_field_of_the_spec_does_not_replace_a_running_container():
    facts: dict[str, Any] = {"name": NAME, "image": "tiny:1", "command": ("serve",), "host_address": "::1"}
    facts |= {"host_port": 1, "container_port": 1}

    assert NewerSpec(**facts).spec_hash == ContainerSpec(**facts).spec_hash
    assert NewerSpec(**facts, read_only=True).spec_hash != ContainerSpec(**facts).spec_hash
