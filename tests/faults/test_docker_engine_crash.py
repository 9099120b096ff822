"""Docker Engine crash while engines run and while they start: the host is marked, and no instance fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from faults.dial import a_dial
from lab.commands import a_stop_of
from lab.desk import Desk
from lab.engine import OwnEngine
from lab.parts import eventually

from aima_api.doctor.checks import CheckStatus, findings
from aima_core.domain.operations import Phase, State
from aima_core.domain.services import Instance, InstanceState
from aima_core.settings import Settings
from aima_worker.node.facts import host_facts
from aima_worker.operations.container_spec import ours
from aima_worker.reconciler.loop import ReconcileLoop

pytestmark = [pytest.mark.docker, pytest.mark.redis]

ENDS_WITHIN = 60
"""Seconds."""
BACK_WITHIN = timedelta(seconds=60)
DOWN_WITHIN = timedelta(seconds=15)
"""Five seconds are promised; a busy machine has more."""
SERVES_AGAIN_WITHIN = timedelta(seconds=40)
"""After the restart of the Docker Engine: 15 s are promised."""

restoring_or_not = pytest.mark.parametrize(
    "own", [{"live_restore": True}, {"live_restore": False}], ids=["live-restore", "no live-restore"], indirect=True
)


@pytest.fixture
def reported() -> list[bool]:
    return []


@pytest.fixture
def watch(private_desk: Desk, reported: list[bool]) -> Iterator[ReconcileLoop]:
    unavailable = private_desk.host.engine_unavailable
    watch = ReconcileLoop(private_desk.host, facts_changed=lambda: reported.append(not unavailable.is_set()))
    watch.start()
    yield watch
    watch.stop()


def instance_of(desk: Desk) -> Instance:
    return desk.host.services.instance(a_dial().service.on(desk.host.name))


def states_until(desk: Desk, end: InstanceState) -> set[InstanceState]:
    """Every observed state of the instance up to that one."""
    seen: set[InstanceState] = set()

    def ended() -> bool:
        seen.add(instance_of(desk).state)
        return end in seen

    assert eventually(ended, within=BACK_WITHIN)
    return seen


@pytest.mark.slow
@restoring_or_not
def test_engines_that_were_ready_serve_again_after_a_docker_engine_crash(
    own: OwnEngine, private_desk: Desk, watch: ReconcileLoop, reported: list[bool]
) -> None:
    desk, host = private_desk, private_desk.host
    ready = desk.run_command(a_dial()).instance

    own.kill()
    assert eventually(lambda: reported == [False], within=DOWN_WITHIN)
    assert not host_facts(host.settings, host.runtime).runtime_answers
    while_away = instance_of(desk)
    own.start()

    back_at = time.monotonic()
    assert while_away == ready
    assert eventually(lambda: _serves(desk, ready), within=SERVES_AGAIN_WITHIN)
    assert eventually(lambda: reported == [False, True], within=BACK_WITHIN)
    assert states_until(desk, InstanceState.READY) <= {InstanceState.RESTARTING, InstanceState.READY}
    assert time.monotonic() - back_at < SERVES_AGAIN_WITHIN.total_seconds()
    assert instance_of(desk).endpoint == ready.endpoint
    assert [lease.until for lease in host.ports.all()] == [None]
    desk.run_command(a_stop_of())


@pytest.mark.slow
@restoring_or_not
def test_a_start_whose_docker_engine_is_killed_fails_and_leaves_nothing_once_it_is_back(
    own: OwnEngine, private_desk: Desk, watch: ReconcileLoop
) -> None:
    desk, host = private_desk, private_desk.host
    id, end = desk.begin(a_dial(dialled={"load-seconds": 30}))
    desk.until_phase(id, Phase.LOADING)

    own.kill()
    outcome = end.result(ENDS_WITHIN)
    own.start()

    assert outcome.operation.state is State.FAILED
    assert outcome.code == "docker_unavailable"
    assert own.address in outcome.operation.failure.message
    assert eventually(lambda: instance_of(desk).state is InstanceState.FAILED, within=BACK_WITHIN)
    assert instance_of(desk).failure == outcome.operation.failure
    assert host.runtime.containers(ours(host)) == []
    assert desk.leases() == []


@pytest.mark.slow
@restoring_or_not
def test_a_start_whose_docker_engine_is_briefly_unavailable_succeeds_or_fails_cleanly(
    own: OwnEngine, private_desk: Desk, watch: ReconcileLoop
) -> None:
    desk, host = private_desk, private_desk.host
    id, end = desk.begin(a_dial(dialled={"load-seconds": 3}))
    desk.until_phase(id, Phase.LOADING)

    own.kill()
    own.start()
    outcome = end.result(ENDS_WITHIN)

    if outcome.operation.state is State.SUCCEEDED:
        assert eventually(lambda: _serves(desk, outcome.instance), within=BACK_WITHIN)
        desk.run_command(a_stop_of())
    else:
        assert outcome.code in ("docker_unavailable", "container_exited")
    assert eventually(lambda: host.runtime.containers(ours(host)) == [], within=BACK_WITHIN)


@pytest.mark.slow
@restoring_or_not
def test_a_stop_during_a_docker_engine_outage_is_completed_once_it_is_back(
    own: OwnEngine, private_desk: Desk, watch: ReconcileLoop
) -> None:
    desk, host = private_desk, private_desk.host
    desk.run_command(a_dial())
    own.kill()

    id, end = desk.begin(a_stop_of())
    assert eventually(
        lambda: "The stop continues when it answers" in (desk.outcome(id).operation.reason or ""), within=DOWN_WITHIN
    )
    own.start()

    assert end.result(ENDS_WITHIN).operation.state is State.SUCCEEDED
    assert host.runtime.containers(ours(host)) == []
    assert instance_of(desk).state is InstanceState.STOPPED


@restoring_or_not
def test_the_doctor_warns_if_containers_would_end_with_the_docker_engine(
    own: OwnEngine, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", own.address)

    warned = [each for each in findings(Settings()) if "live-restore is off" in each.message]

    assert [each.verdict for each in warned] == ([] if "no live" not in request.node.name else [CheckStatus.WARNING])
    assert all("live-restore" in (each.fix or "") for each in warned)


def _serves(desk: Desk, instance: Instance) -> bool:
    try:
        return desk.host.probe(f"{instance.endpoint}/health") == 200
    except OSError:
        return False
