"""Engines killed for lack of memory, crash loops, and engines that ignore SIGTERM."""

from __future__ import annotations

import socket
import time
from datetime import timedelta

import pytest
from faults.dial import a_dial
from lab.commands import a_start_of, a_stop_of
from lab.desk import Desk
from lab.images import busybox_image
from lab.parts import eventually
from structlog.testing import capture_logs

from aima_core.domain.services import Instance, InstanceState
from aima_worker.context import Timings
from aima_worker.operations.container_spec import ours
from aima_worker.reconciler.loop import ReconcileLoop

pytestmark = [pytest.mark.docker, pytest.mark.redis]

GRACE_SECONDS = 1
AT_ONCE = timedelta(milliseconds=100)
SERVES_THEN_TAKES_ALL_MEMORY = "httpd -p 8000 -h /www; sleep 1; echo so hungry; exec tail /dev/zero"


def state_of(desk: Desk, instance: Instance) -> InstanceState:
    return desk.host.services.instance(instance.id).state


def test_an_engine_killed_for_lack_of_memory_while_loading_fails_the_start_with_its_limit(desk: Desk) -> None:
    outcome = desk.run_command(a_dial(dialled={"memory": 200, "load-seconds": 30}))

    assert outcome.code == "out_of_memory"
    assert "(limit 64 MB)" in outcome.operation.failure.message
    assert "loading for 30 s" in outcome.operation.failure.log_tail
    assert outcome.instance.failure == outcome.operation.failure


def test_a_ready_engine_killed_for_lack_of_memory_is_reported_as_such(desk: Desk) -> None:
    hungry = a_start_of(
        image=busybox_image(), command=["sh", "-c", SERVES_THEN_TAKES_ALL_MEMORY], limits={"memory": "32MB"}
    )
    ready = desk.run_command(hungry).instance
    watch = ReconcileLoop(desk.host)

    watch.start()
    assert eventually(lambda: desk.host.services.instance(ready.id).failure is not None)
    watch.stop()
    reported = desk.host.services.instance(ready.id)
    desk.run_command(a_stop_of())

    assert ready.state is InstanceState.READY
    assert reported.failure.code == "engine_died"
    assert "out of memory" in reported.failure.message
    assert "so hungry" in reported.failure.log_tail


@pytest.mark.parametrize("timings", [pytest.param(Timings(restart_delays=(AT_ONCE,) * 3), id="restarts at once")])
def test_an_engine_that_keeps_crashing_is_restarted_three_times_and_fails_with_exit_code_and_last_log_lines(
    desk: Desk,
) -> None:
    crashes = {"crash-after": 1, "exit-code": 3, "last-words": "no such shard"}
    ready = desk.run_command(a_dial(dialled=crashes)).instance
    watch = ReconcileLoop(desk.host)

    with capture_logs() as said:
        watch.start()
        gave_up = eventually(lambda: state_of(desk, ready) is InstanceState.FAILED, within=timedelta(seconds=40))
        watch.stop()
    failed = desk.host.services.instance(ready.id)

    assert gave_up, said
    assert [each["event"] for each in said].count("engine restarted") == 3
    assert failed.failure.code == "engine_died"
    assert "exit code 3" in failed.failure.message
    assert failed.failure.log_tail[-1] == "no such shard"
    assert (desk.leases(), desk.host.runtime.containers(ours(desk.host))) == ([], [])


def test_an_engine_that_ignores_sigterm_is_killed_after_its_grace_and_its_port_is_free_at_once(desk: Desk) -> None:
    deaf = desk.run_command(a_dial(dialled={"ignore-sigterm": True})).instance
    began = time.monotonic()

    outcome = desk.run_command(a_stop_of(grace=f"{GRACE_SECONDS}s"))
    took = time.monotonic() - began
    with socket.create_server((desk.host.settings.host.address, deaf.port)):
        pass

    assert outcome.instance.state is InstanceState.STOPPED
    assert GRACE_SECONDS <= took < GRACE_SECONDS + 5
