"""A stop while the container engine is unavailable: retried, up to a timeout."""

from __future__ import annotations

from datetime import timedelta

import pytest
from lab.commands import SERVICE, a_start_of, a_stop_of
from lab.parts import eventually

from aima_core.domain.operations import State
from aima_core.domain.services import InstanceState
from aima_worker.context import Timings

pytestmark = pytest.mark.redis


def test_a_stop_reports_an_unavailable_docker_engine_and_succeeds_once_it_is_back(desk, runtime):
    desk.run_command(a_start_of())
    runtime.away = True

    id, end = desk.begin(a_stop_of())
    assert eventually(lambda: "The stop continues when it answers" in (desk.outcome(id).operation.reason or ""))
    runtime.away = False
    outcome = end.result(5)

    assert outcome.operation.state is State.SUCCEEDED
    assert outcome.instance.state is InstanceState.STOPPED
    assert runtime.find(desk.host.container_name(SERVICE)) is None


@pytest.mark.parametrize("timings", [pytest.param(Timings(engine_wait_timeout=timedelta()), id="without patience")])
def test_a_stop_fails_when_the_docker_engine_stays_unavailable(desk, runtime):
    desk.run_command(a_start_of())
    runtime.away = True

    outcome = desk.run_command(a_stop_of())

    assert outcome.code == "docker_unavailable"
    assert outcome.instance.state is InstanceState.STOPPING
