"""Engines killed for lack of memory, crash loops, and engines that ignore SIGTERM."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

import docker
import pytest
from docker.errors import NotFound
from faults.dial import a_dial
from lab.commands import SERVICE, a_start_of, a_stop_of
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
NOTICED_WITHIN = timedelta(seconds=60)
TAKES_ALL_MEMORY_AT_SIGUSR1 = """
trap 'echo so hungry; exec tail /dev/zero' USR1
httpd -p 8000 -h /www
while :; do sleep 0.1; done
"""


@pytest.fixture
def client() -> Iterator[docker.DockerClient]:
    with closing(docker.from_env()) as client:
        yield client


def state_of(desk: Desk, instance: Instance) -> InstanceState:
    return desk.host.services.instance(instance.id).state


def test_an_engine_killed_for_lack_of_memory_while_loading_fails_the_start_with_its_limit(desk: Desk) -> None:
    outcome = desk.run_command(a_dial(dialled={"memory": 200, "load-seconds": 30}))

    assert outcome.code == "out_of_memory"
    assert "(limit 64 MB)" in outcome.operation.failure.message
    assert "loading for 30 s" in outcome.operation.failure.log_tail
    assert outcome.instance.failure == outcome.operation.failure


def test_a_ready_engine_killed_for_lack_of_memory_is_reported_as_such(desk: Desk, client: docker.DockerClient) -> None:
    hungry = a_start_of(
        image=busybox_image(), command=["sh", "-c", TAKES_ALL_MEMORY_AT_SIGUSR1], limits={"memory": "32MB"}
    )
    ready = desk.run_command(hungry).instance
    watch = ReconcileLoop(desk.host)
    seen: list[Instance] = []

    def has_failed() -> bool:
        seen[:] = [desk.host.services.instance(ready.id)]
        return seen[0].failure is not None

    watch.start()
    client.containers.get(desk.host.container_name(SERVICE)).kill("USR1")
    assert eventually(has_failed, within=NOTICED_WITHIN)
    watch.stop()
    (reported,) = seen  # a restart ends the failure
    desk.run_command(a_stop_of())

    assert ready.state is InstanceState.READY
    assert reported.failure.code == "engine_died"
    assert "out of memory" in reported.failure.message
    assert "so hungry" in reported.failure.log_tail


@pytest.mark.parametrize("timings", [pytest.param(Timings(restart_delays=(AT_ONCE,) * 3), id="restarts at once")])
def test_an_engine_that_keeps_crashing_is_restarted_three_times_and_fails_with_exit_code_and_last_log_lines(
    desk: Desk, client: docker.DockerClient
) -> None:
    crashes = {"exit-code": 3, "last-words": "no such shard"}
    ready = desk.run_command(a_dial(dialled=crashes)).instance
    watch = ReconcileLoop(desk.host)
    crashed = set[str]()

    def crashed_for_good() -> bool:
        """Makes it crash whenever it is ready: `crash-after` counts from its start, which may take longer."""
        try:
            container = client.containers.get(desk.host.container_name(SERVICE))
        except NotFound:  # it is created again, or was removed
            return state_of(desk, ready) is InstanceState.FAILED
        started = container.attrs["State"]["StartedAt"]
        state = state_of(desk, ready)
        if state is InstanceState.READY and started not in crashed:
            crashed.add(started)
            container.kill("USR1")
        return state is InstanceState.FAILED

    with capture_logs() as said:
        watch.start()
        gave_up = eventually(crashed_for_good, within=NOTICED_WITHIN)
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
    assert GRACE_SECONDS <= took < GRACE_SECONDS + 8  # without it, Docker Engine waits for ten
