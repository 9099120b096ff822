"""Drain and resume, duplicate host identities, and workers that rejoin."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hosts.conftest import offer_dials
from hosts.requests import (
    CPU_ROUTE,
    ended,
    finish_loading,
    names,
    ready,
    running,
    start,
    start_one,
    until_attempt,
    until_phase,
    until_waiting,
)
from lab.fleet_of_hosts import SETTLES_WITHIN, FleetOfHosts
from lab.host import HostPlan, LabHost, a_cpu_host
from lab.parts import eventually

pytestmark = [pytest.mark.docker, pytest.mark.redis, pytest.mark.registry, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def fleet_of_this_file(fleet_of_this_file):
    offer_dials(fleet_of_this_file)
    return fleet_of_this_file


# Drain and resume -----------------------------------------------------------------------------------------------------


def drain(fleet: FleetOfHosts, host: str, *options: str) -> None:
    done = fleet.node().aima("host", "drain", host, *options)
    assert done.returncode == 0, done.stderr


def is_drained(fleet: FleetOfHosts, host: str) -> bool:
    return bool(fleet.node().get(f"/v1/hosts/{host}")["drained"])


def test_a_drained_host_keeps_its_instances_and_takes_no_starts_until_it_is_resumed(fleet):
    ready(fleet, start_one(fleet, "svc-light-1", hosts=["cpu-01"]))

    drain(fleet, "cpu-01")
    elsewhere = ready(fleet, *(start_one(fleet, each, route=CPU_ROUTE) for each in names(range(2, 6), kind="light")))
    named = start_one(fleet, "svc-light-6", hosts=["cpu-01"])
    (reason,) = until_waiting(fleet, named)

    assert {record["host"] for record in elsewhere} == {"cpu-02"}
    assert "cpu-01: drained" in reason
    assert running(fleet) == {"spark-01": 0, "cpu-01": 1, "cpu-02": 4}

    assert fleet.node().aima("host", "resume", "cpu-01").returncode == 0

    (record,) = ready(fleet, named)
    assert record["host"] == "cpu-01"


def test_draining_with_stop_ends_the_instances_there_and_none_elsewhere(fleet):
    ready(fleet, *(each["id"] for each in start(fleet, "svc-light-1", hosts=["cpu-01", "cpu-02"])))

    drain(fleet, "cpu-01", "--stop", "--wait")

    assert running(fleet) == {"spark-01": 0, "cpu-01": 0, "cpu-02": 1}


def test_a_host_stays_drained_when_its_worker_or_redis_is_killed_and_even_when_redis_loses_its_data(fleet):
    ready(fleet, start_one(fleet, "svc-light-1", hosts=["cpu-01"]))
    worker = fleet["cpu-01"].worker
    fleet.wait_until(lambda: re.findall(r"event=\"host (drained|resumed)\"", worker.said())[-1:] != ["drained"])
    before = worker.said().count('event="host drained"')
    drain(fleet, "cpu-01")
    fleet.wait_until(lambda: worker.said().count('event="host drained"') == before + 1)

    worker.kill()
    worker.start()
    fleet.wait_until(lambda: worker.said().count('event="host drained"') == before + 2)
    assert is_drained(fleet, "cpu-01")

    fleet.redis.kill()
    fleet.redis.start()
    fleet.wait_until(lambda: bool(fleet.states()))  # the node fails for a second after a timeout
    assert is_drained(fleet, "cpu-01")

    fleet.redis.lose_everything()
    fleet.wait_live()
    fleet.wait_until(lambda: is_drained(fleet, "cpu-01"))

    (record,) = ready(fleet, start_one(fleet, "svc-light-2", route=CPU_ROUTE))
    assert record["host"] == "cpu-02"
    assert running(fleet) == {"spark-01": 0, "cpu-01": 1, "cpu-02": 1}
    # Else nothing knows of the instance that the end of this test stops.
    fleet.wait_until(lambda: bool(fleet.node().get("/v1/services/svc-light-1")["instances"]))


# Identity -------------------------------------------------------------------------------------------------------------


@contextmanager
def one_more(fleet: FleetOfHosts, plan: HostPlan, *, identity_of: LabHost | None = None) -> Iterator[LabHost]:
    """A host whose worker starts at once, with the identity of another if given."""
    host = fleet.set_up(plan)
    if identity_of is not None:
        host.state.mkdir(parents=True)
        (host.state / "identity").write_text((identity_of.state / "identity").read_text())
    host.worker.start()
    try:
        yield host
    finally:
        fleet.remove(plan.name)


@pytest.mark.parametrize(
    ("plan", "copied", "code", "said"),
    [
        pytest.param(a_cpu_host("alike", AIMA_HOST__NAME="cpu-01"), False, 35, "has the name cpu-01", id="of its name"),
        pytest.param(a_cpu_host("copied"), True, 36, "on cpu-01 has this host's identity", id="of its identity"),
    ],
)
def test_a_second_worker_of_a_live_host_is_refused_with_the_reason(fleet, plan, copied, code, said):
    with one_more(fleet, plan, identity_of=fleet["cpu-01"] if copied else None) as second:
        assert eventually(lambda: not second.worker.alive, within=SETTLES_WITHIN)

        assert second.worker.stop() == code
        assert said in second.worker.said()
        assert "hint: " in second.worker.said()
    assert fleet["cpu-01"].worker.alive
    assert fleet.states().keys() == {"spark-01", "cpu-01", "cpu-02"}
    ready(fleet, start_one(fleet, "svc-light-1", hosts=["cpu-01"]))


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_the_same_worker_can_rejoin_at_once(fleet, how):
    getattr(fleet["cpu-01"].worker, how)()
    waits = start_one(fleet, "svc-light-1", hosts=["cpu-01"])
    began = time.monotonic()

    fleet["cpu-01"].worker.start()
    (record,) = ready(fleet, waits)

    print(f"after `{how}` it was back, and had started a service, after {time.monotonic() - began:.1f} s")  # noqa: T201
    assert record["host"] == "cpu-01"


def test_a_worker_killed_while_loading_continues_with_the_same_container(fleet):
    loading = start_one(fleet, "svc-light-1", hosts=["cpu-01"], arguments={"load-seconds": 100})
    until_phase(fleet, loading, "loading")
    before = fleet["cpu-01"].engine.containers()

    fleet["cpu-01"].worker.kill()
    fleet["cpu-01"].worker.start()
    until_attempt(fleet, loading, 2)
    finish_loading(fleet, "cpu-01")
    (record,) = ended(fleet, loading)

    assert (record["phase"], record["attempt"]) == ("ready", 2)
    assert fleet["cpu-01"].engine.containers() == before
