"""A serving engine that takes its host's memory is killed in time; a control group stands for the host's memory.

The kernel's /proc/meminfo is the whole machine's, so the cell gets one that counts what its containers hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.request import urlopen

import pytest
from hosts.conftest import offer_dials, on_any_cpu
from hosts.requests import ready, start_one, until_waiting
from lab.fleet_of_hosts import FleetOfHosts
from lab.host import HostPlan, a_cpu_host
from lab.parts import eventually, missing

pytestmark = [pytest.mark.docker, pytest.mark.redis, pytest.mark.registry, pytest.mark.slow, pytest.mark.timeout(300)]
MB = 1_000_000
MEMORY, RESERVE, FLOOR = 1000 * MB, 600 * MB, 400 * MB
HOST = "cpu-01"
HEARTBEAT_MISSED_AFTER = 10.0
"""Seconds without a heartbeat, which is sent every five."""
RESTARTS_WITHIN = timedelta(seconds=8)
_CGROUPS = Path("/sys/fs/cgroup/memory")
_GREEDY = r"""
mkdir -p /tmp/www && echo ok > /tmp/www/health && httpd -p 8000 -h /tmp/www && echo serving
hold() { dd if=/dev/zero bs=10M count=1 2>/dev/null | tail -f /dev/null; }
held=0
while :; do
    until [ "$(cat /tmp/wanted 2>/dev/null || echo 0)" -gt $held ]; do sleep 0.05; done
    hold & held=$((held + 10)); echo "holding $held MiB"; usleep $((held > 500 ? 200000 : 50000))
done
"""
"""Serves, and holds as many MiB as /tmp/wanted says, at most 200 more in each second.

From 500 on at most 50 more, since a busy machine delays the guard.
"""


@pytest.fixture(scope="module")
def plans() -> tuple[HostPlan, ...]:
    own = {"AIMA_HOST__MEMORY_RESERVE": f"{RESERVE // MB}MB", "AIMA_HOST__MEMORY_FLOOR": f"{FLOOR // MB}MB"}
    return (a_cpu_host(HOST, **own),)


@pytest.fixture(scope="module")
def fleet_of_this_file(own_fleet: FleetOfHosts) -> FleetOfHosts:
    if not _CGROUPS.is_dir():
        missing("the test reads control groups of version 1")
    greedy = {
        "command": ["sh", "-c", _GREEDY],
        "arguments": {},
        "limits": {"memory": "2GB"},
        "requires": on_any_cpu(memory="50MB"),
    }
    offer_dials(own_fleet, greedy=greedy)
    return own_fleet


class Pressure:
    """The memory of the host's containers, as the /proc/meminfo of its cell reports it."""

    def __init__(self, fleet: FleetOfHosts, group: Path) -> None:
        self.least = MEMORY
        """Bytes available, at the worst moment."""
        self._group = group
        self._file = fleet.inside.outside(Path("/run/meminfo"))
        self._text = Path("/proc/meminfo").read_text()
        self._ended = Event()
        self._thread = Thread(target=self._follow)

    def available(self) -> int:
        held = dict(line.split() for line in (self._group / "memory.stat").read_text().splitlines())
        return max(0, MEMORY - int(held["total_rss"]) - int(held["total_shmem"]))

    def report(self) -> None:
        available = self.available()
        self.least = min(self.least, available)
        says = {"MemTotal": MEMORY, "MemFree": available, "MemAvailable": available}
        text = re.sub(
            r"^(\w+):( +)\d+ kB$",
            lambda line: f"{line[1]}: {says[line[1]] // 1024:>12} kB" if line[1] in says else line[0],
            self._text,
            flags=re.MULTILINE,
        )
        with self._file.open("r+" if self._file.exists() else "w") as file:
            file.write(text)  # of the same length each time, so that no reader sees a part

    @contextmanager
    def reported(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self._thread.join()

    def _follow(self) -> None:
        while not self._ended.wait(0.01):
            self.report()


class Neighbour:
    """Requests to another engine of the host, and the host's heartbeats, all the time."""

    def __init__(self, fleet: FleetOfHosts, endpoint: str) -> None:
        self.failures: list[str] = []
        self.longest_silence = 0.0
        self.requests = 0
        self._fleet = fleet
        self._endpoint = endpoint
        self._ended = Event()
        self._thread = Thread(target=self._request)

    @contextmanager
    def requested(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self._thread.join()

    def _request(self) -> None:
        while not self._ended.wait(0.1):
            self.requests += 1
            try:
                with urlopen(f"{self._endpoint}/health", timeout=10) as answer:
                    assert answer.status == 200
                silent = self._fleet.node().get(f"/v1/hosts/{HOST}")["silent_for"]
                self.longest_silence = max(self.longest_silence, silent)
            except OSError as failed:
                self.failures.append(repr(failed))


def instance(fleet: FleetOfHosts, service: str) -> dict[str, Any]:
    (found,) = fleet.node().get(f"/v1/services/{service}")["instances"]
    return dict(found)


def wants(fleet: FleetOfHosts, service: str, mebibytes: int) -> None:
    with fleet[HOST].engine.client() as client:
        container = client.containers.get(f"aima.{service}.{HOST}")
        assert container.exec_run(["sh", "-c", f"echo {mebibytes} > /tmp/wanted"]).exit_code == 0


def group_of(fleet: FleetOfHosts, service: str) -> Path:
    """The control group of all containers of the lab."""
    groups = (process_of(fleet, service) / "cgroup").read_text()
    own = re.search(r":memory:/(.*)$", groups, re.MULTILINE)
    assert own is not None and own[1].startswith("aima-lab-"), groups
    return (_CGROUPS / own[1]).parent


def process_of(fleet: FleetOfHosts, service: str) -> Path:
    """The directory in /proc of the engine's first process, as seen from here."""
    with fleet[HOST].engine.client() as client:
        pid = client.api.inspect_container(f"aima.{service}.{HOST}")["State"]["Pid"]
    return fleet.inside.outside(Path(f"/proc/{pid}"))


@pytest.fixture
def neighbour(fleet: FleetOfHosts) -> str:
    (record,) = ready(fleet, start_one(fleet, "svc-light-neighbour", hosts=[HOST], expose=True))
    return str(record["endpoint"])


@pytest.fixture
def pressure(fleet: FleetOfHosts, neighbour: str) -> Iterator[Pressure]:
    group = group_of(fleet, "svc-light-neighbour")
    (group / "memory.limit_in_bytes").write_text(str(MEMORY))
    pressure = Pressure(fleet, group)
    pressure.report()
    fleet.inside.do("mount", "--bind", "/run/meminfo", "/proc/meminfo")
    try:
        with pressure.reported(), fleet[HOST].worker.reported():
            fleet.wait_live(HOST)
            yield pressure
    finally:
        fleet.inside.do("umount", "/proc/meminfo")
        (group / "memory.limit_in_bytes").write_text("-1")


def test_a_serving_engine_that_takes_the_memory_is_killed_before_half_the_floor_is_gone(
    fleet: FleetOfHosts, pressure: Pressure, neighbour: str
) -> None:
    watched = Neighbour(fleet, neighbour)
    ready(fleet, start_one(fleet, "svc-greedy-1", hosts=[HOST]))

    with watched.requested():
        wants(fleet, "svc-greedy-1", 500)
        waits = start_when_low(fleet, "svc-light-waits")
        (reason,) = until_waiting(fleet, waits)
        assert instance(fleet, "svc-greedy-1")["state"] == "ready"

        wants(fleet, "svc-greedy-1", 4000)
        fleet.wait_until(lambda: instance(fleet, "svc-greedy-1")["state"] == "failed")
        ready(fleet, waits)
        assert not eventually(lambda: instance(fleet, "svc-greedy-1")["state"] != "failed", within=RESTARTS_WITHIN)
        fleet.wait_until(lambda: watched.requests > 50)

    killed = instance(fleet, "svc-greedy-1")
    print(f"least: {pressure.least / MB:.0f} MB; {killed['failure']['message']}")  # noqa: T201
    assert pressure.least > FLOOR / 2
    assert f"{HOST}: " in reason
    assert "of memory available, below its reserve of 600 MB" in reason
    assert killed["failure"]["code"] == "host_memory_floor"
    assert "was killed while it served" in killed["failure"]["message"]
    assert "less than its floor of 400 MB. It grew most, by" in killed["failure"]["message"]
    assert re.search(r"Available: .* before, .* then\.", killed["failure"]["message"])
    assert killed["failure"]["log_tail"][-1].startswith("holding")
    assert killed["desired"] == "running"
    assert watched.failures == []
    assert watched.longest_silence < HEARTBEAT_MISSED_AFTER


def start_when_low(fleet: FleetOfHosts, service: str) -> str:
    fleet.wait_until(lambda: fleet.node().get(f"/v1/hosts/{HOST}")["memory_low"] is not None)
    return start_one(fleet, service, hosts=[HOST])


def test_the_kernel_would_kill_an_engine_before_worker_and_docker_engine(fleet: FleetOfHosts, neighbour: str) -> None:
    engine = process_of(fleet, "svc-light-neighbour")
    others = [Path(f"/proc/{part.process.pid}") for part in (fleet[HOST].worker, fleet[HOST].engine)]

    adjustments = [int((each / "oom_score_adj").read_text()) for each in (engine, *others)]

    assert adjustments[0] == 500
    assert max(adjustments[1:]) < 500
