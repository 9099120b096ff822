"""Failover of a host without heartbeats, and a host whose Docker Engine is unavailable, on real workers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from hosts.conftest import offer_dials
from hosts.requests import CPU_ROUTE, ended, ready, reported, running, start_one, until_phase, until_waiting
from lab.fleet_of_hosts import FleetOfHosts, fleet_of_hosts
from lab.host import a_cpu_host

pytestmark = [pytest.mark.docker, pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(300)]
MOVES_AFTER = timedelta(seconds=20)
UPKEEP_WITHIN = timedelta(seconds=40)
"""A node checks heartbeats every five seconds; then a container is started on a busy machine."""
STOPS_WITHIN = timedelta(seconds=40)
"""After a host's return, the copies that failed over meanwhile are stopped: promised are 15 s."""
DOCKER_IS_MISSED_WITHIN = timedelta(seconds=15)
"""Five seconds are promised; a busy machine has more. The facts are announced each minute without a change."""


@pytest.fixture(scope="module")
def fleet_of_this_file(dial_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetOfHosts]:
    api = {"AIMA_API__MOVE_AFTER": f"{MOVES_AFTER.seconds}s"}
    hosts = a_cpu_host("cpu-01"), a_cpu_host("cpu-02")
    with fleet_of_hosts(*hosts, logs=tmp_path_factory.mktemp("fleet"), nodes=1, api=api) as fleet:
        fleet.take(dial_image)
        offer_dials(fleet)
        fleet.wait_live()
        yield fleet


def test_instances_of_a_lost_host_are_started_elsewhere_and_its_own_copy_is_stopped_once_it_is_back(fleet):
    (record,) = ready(fleet, start_one(fleet, "svc-light-1", route=CPU_ROUTE))
    lost = record["host"]
    (moved,) = fleet[lost].engine.containers()
    (other,) = {"cpu-01", "cpu-02"} - {lost}
    bound = start_one(fleet, "svc-light-2", hosts=[lost], arguments={"load-seconds": 110})
    until_phase(fleet, bound, "loading")

    fleet[lost].link.cut()
    cut_at = time.monotonic()
    fleet.wait_until(lambda: running(fleet)[other] == 1, within=MOVES_AFTER + UPKEEP_WITHIN)
    (failed,) = ended(fleet, bound)

    assert time.monotonic() - cut_at > MOVES_AFTER.total_seconds() - 5  # the time of its last heartbeat may differ
    assert failed["failure"]["code"] == "host_lost"
    assert running(fleet)[lost] == 2

    fleet[lost].link.mend()

    fleet.wait_until(lambda: moved not in fleet[lost].engine.containers(), within=STOPS_WITHIN)
    assert running(fleet) == {lost: 1, other: 1}


def test_a_worker_without_a_docker_engine_reports_it_and_claims_no_start_until_it_answers(fleet):
    host = fleet["cpu-01"]
    host.engine.kill()
    host.worker.kill()

    host.worker.start()
    fleet.wait_until(lambda: not fleet.node().get("/v1/hosts/cpu-01")["runtime_answers"])
    fleet.wait_live("cpu-01")
    waits = start_one(fleet, "svc-light-1", hosts=["cpu-01"])
    (elsewhere,) = ready(fleet, start_one(fleet, "svc-light-2", route=CPU_ROUTE))
    (reason,) = until_waiting(fleet, waits)

    assert elsewhere["host"] == "cpu-02"
    assert "cpu-01: no Docker Engine answers" in reason
    assert reported(fleet, waits)["attempt"] == 0

    host.engine.start()

    assert ready(fleet, waits)


def test_a_docker_engine_crash_is_reported_within_five_seconds(fleet):
    fleet["cpu-01"].engine.kill()

    fleet.wait_until(
        lambda: not fleet.node().get("/v1/hosts/cpu-01")["runtime_answers"], within=DOCKER_IS_MISSED_WITHIN
    )
