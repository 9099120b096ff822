"""The lab's hosts behave like real ones under faults, and leave nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import docker
import psutil
import pytest
from docker.errors import APIError
from docker.types import DeviceRequest
from hosts.conftest import DIAL_IMAGE
from lab.dataplane import signer
from lab.fleet_of_hosts import SIGNING_KEY, FleetOfHosts
from lab.host import a_cpu_host
from lab.look_alike import look_alike_image
from lab.parts import eventually, runs
from lab.program import Program
from lab.running import ROOT
from pydantic import SecretStr

from aima_api.gateway.reach import Reach, ThroughDataplane
from aima_core.domain.services import Instance
from aima_core.system.loopback import loopback_id
from aima_core.trust.keys import SigningKey

pytestmark = [pytest.mark.docker, pytest.mark.redis, pytest.mark.registry, pytest.mark.slow, pytest.mark.timeout(300)]
SERVICE = "svc-tiny-dial"
AWAY_WITHIN = timedelta(seconds=40)
"""20 s are promised; a busy machine has more."""
ENDS_WITHIN = timedelta(seconds=60)
NETWORK_GONE_WITHIN = timedelta(seconds=60)
"""The kernel removes a namespace asynchronously."""
CHANGES_BY_ITSELF = ("seen_at", "silent_for", "disk_free", "clock_offset")
A_FLEET = """
import sys, time
from pathlib import Path
from lab.fleet_of_hosts import fleet_of_hosts
from lab.host import a_cpu_host
with fleet_of_hosts(a_cpu_host("cpu-01"), logs=Path(sys.argv[1]), nodes=0) as fleet:
    fleet.take(sys.argv[2])
    with fleet["cpu-01"].engine.client() as client:
        client.containers.run(sys.argv[2], detach=True)
    print(fleet["cpu-01"].address, flush=True)
    time.sleep(100)
"""


def start_on(fleet: FleetOfHosts, host: str) -> str:
    """Starts a dial there; returns its endpoint."""
    started = fleet.node().aima("service", "start", SERVICE, "--host", host, "--expose", "--wait")
    assert started.returncode == 0, started.stderr
    (instance,) = (each for each in instances(fleet) if each["id"] == f"{SERVICE}@{host}")
    return str(instance["endpoint"])


def instances(fleet: FleetOfHosts) -> list[dict[str, object]]:
    reported: list[dict[str, object]] = fleet.node().record("service", "status", SERVICE)["instances"]
    return reported


def says(endpoint: str) -> bytes:
    with urlopen(f"{endpoint}/health", timeout=5) as answer:
        said: bytes = answer.read()
        return said


def test_every_host_is_live_with_its_configured_facts(fleet):
    hosts = {host["name"]: host for host in fleet.node().record("host", "list")}

    assert {name: host["live"] for name, host in hosts.items()} == {"spark-01": True, "cpu-01": True, "cpu-02": True}
    assert (hosts["spark-01"]["arch"], hosts["spark-01"]["memory"]) == ("arm64", 128_000_000_000)
    assert [gpu["kind"] for gpu in hosts["spark-01"]["accelerators"]] == ["gb10"]
    assert hosts["cpu-01"]["accelerators"] == []
    assert len({host["identity"] for host in hosts.values()}) == 3


def test_two_api_nodes_list_the_same_hosts(fleet):
    listed: list[object] = []

    def are_the_same() -> bool:
        listed[:] = ([steady(host) for host in node.record("host", "list")] for node in fleet.nodes)
        return listed[0] == listed[1]

    assert eventually(are_the_same), listed  # a host may announce something between the two


@pytest.mark.parametrize("host", ["spark-01", "cpu-01", "cpu-02"])
def test_a_service_started_on_a_host_answers_at_the_address_of_the_host(host, fleet):
    endpoint = start_on(fleet, host)

    assert urlsplit(endpoint).hostname == fleet[host].address
    assert says(endpoint) == b"ok\n"
    assert [each.name for each in fleet.hosts if each.engine.containers()] == [host]


def test_an_engine_that_is_not_exposed_is_reached_through_the_data_plane_of_its_host_only(fleet):
    started = fleet.node().aima("service", "start", SERVICE, "--host", "cpu-01", "--no-expose", "--wait")
    assert started.returncode == 0, started.stderr
    (instance,) = (each for each in instances(fleet) if each["id"] == f"{SERVICE}@cpu-01")
    tokens = signer(SigningKey(SecretStr(SIGNING_KEY)))
    reached = Reach(tokens, loopback=loopback_id()).target_of(Instance.model_validate(instance | {"fence": 1}))
    assert isinstance(reached, ThroughDataplane)

    with urlopen(Request(f"{reached.url}/health", headers=dict(reached.headers())), timeout=5) as answer:
        assert answer.read() == b"ok\n"
    with pytest.raises(OSError, match="refused"):
        says(f"http://{fleet['cpu-01'].address}:{instance['port']}")
    with pytest.raises(HTTPError, match="401"):
        says(reached.url)


def test_hosts_reach_the_engines_of_each_other(fleet):
    endpoint = start_on(fleet, "cpu-01")

    with fleet["cpu-02"].engine.client() as client:
        said = client.containers.run(DIAL_IMAGE, ["busybox", "wget", "-qO-", f"{endpoint}/health"], remove=True)

    assert said == b"ok\n"


def test_a_partitioned_host_is_offline_and_returns(fleet):
    endpoint = start_on(fleet, "cpu-01")

    fleet["cpu-01"].link.cut()

    only_it = {"spark-01": "live", "cpu-01": "away", "cpu-02": "live"}
    fleet.wait_until(lambda: fleet.states() == only_it, within=AWAY_WITHIN)
    with pytest.raises(OSError, match=r"timed out|unreachable|No route"):
        says(endpoint)

    fleet["cpu-01"].link.mend()

    fleet.wait_live("cpu-01")
    assert says(endpoint) == b"ok\n"


def test_an_engine_outlives_its_worker(fleet):
    endpoint = start_on(fleet, "cpu-02")

    worker = fleet["cpu-02"].worker
    joined_before = joins(worker)

    worker.kill()

    assert says(endpoint) == b"ok\n"

    worker.start()

    fleet.wait_until(lambda: joins(worker) > joined_before)
    assert says(endpoint) == b"ok\n"
    assert [each["state"] for each in instances(fleet)] == ["ready"]


def joins(worker: Program) -> int:
    """How often it has joined the fleet."""
    return worker.said().count('event="worker joined"')


def test_a_killed_docker_engine_affects_only_its_host(fleet):
    engine = fleet["cpu-01"].engine

    engine.kill()

    assert [host.name for host in fleet.hosts if host.engine.answers()] == ["spark-01", "cpu-02"]

    engine.start()

    assert start_on(fleet, "cpu-01")


def test_redis_can_restart_with_and_without_its_data(fleet):
    fleet.redis.kill()
    fleet.redis.start()

    fleet.wait_until(lambda: bool(fleet.states()))  # the node fails for a second after a timeout
    assert fleet.states().keys() == {"spark-01", "cpu-01", "cpu-02"}

    fleet.redis.freeze()

    assert not fleet.redis.answers()

    fleet.redis.thaw()
    for host in fleet.hosts:
        host.worker.kill()
    fleet.redis.lose_everything()

    fleet.wait_until(lambda: fleet.states() is not None)
    assert fleet.states() == {}


def test_one_api_node_can_be_killed_and_the_other_continues(fleet):
    first, second = fleet.nodes

    first.kill()

    assert not first.answers()
    assert [host["live"] for host in second.record("host", "list")] == [True, True, True]


def test_only_the_docker_engine_of_a_gpu_host_accepts_gpu_requests(fleet):
    gpu = DeviceRequest(count=-1, capabilities=[["gpu"]])

    def run_with_a_gpu(host: str) -> None:
        with fleet[host].engine.client() as client:
            container = client.containers.create(DIAL_IMAGE, ["true"], device_requests=[gpu])
            try:
                container.start()
            finally:
                container.remove(force=True)

    run_with_a_gpu("spark-01")
    with pytest.raises(APIError, match="could not select device driver"):
        run_with_a_gpu("cpu-01")


def test_a_host_pulls_only_images_for_its_architecture_from_the_registry_of_the_lab(fleet):
    theirs = fleet.publish(DIAL_IMAGE, name="dial:arm64", arch="arm64")

    pulled = {
        host: fleet.node().aima("image", "pull", theirs, "--host", host, "--wait") for host in ("spark-01", "cpu-01")
    }

    assert pulled["spark-01"].returncode == 0, pulled["spark-01"].stderr
    assert pulled["cpu-01"].returncode != 0
    assert "arm64" in pulled["cpu-01"].stderr


def test_a_look_alike_image_declares_another_architecture_and_still_runs(dial_image):
    with closing(docker.from_env()) as client:
        try:
            image = client.images.get(look_alike_image(dial_image, name="aima-lab/dial:arm64"))

            assert image.attrs["Architecture"] == "arm64"
            assert client.containers.run(image.id, ["echo", "it runs"], remove=True) == b"it runs\n"
        finally:
            client.images.remove("aima-lab/dial:arm64")


def test_the_image_of_a_catalog_entry_can_be_replaced(fleet):
    fleet.offer("dial-cpu", image="aima/another:7")

    assert {node.record("engine", "show", "dial-cpu")["image"] for node in fleet.nodes} == {"aima/another:7"}

    fleet.offer("dial-cpu")


def test_a_host_can_join_later(fleet):
    fleet.add(a_cpu_host("cpu-03", facts={"memory": "8GB"}))
    try:
        fleet.wait_live("cpu-03")

        assert fleet.node().record("host", "show", "cpu-03")["memory"] == 8_000_000_000
    finally:
        fleet.remove("cpu-03")


def test_killed_tests_leave_nothing_behind(dial_image, tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}"}
    command = [sys.executable, "-c", A_FLEET, str(tmp_path), dial_image]
    tests = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert tests.stdout is not None
    address = tests.stdout.readline().strip()
    started = psutil.Process(tests.pid).children(recursive=True)
    groups = {group for process in started for group in groups_of(process)}
    assert groups

    tests.kill()
    tests.communicate()

    assert eventually(lambda: not any(map(runs, started)), within=ENDS_WITHIN)
    assert eventually(lambda: groups.isdisjoint(control_groups()), within=ENDS_WITHIN)
    network = address.rpartition(".")[0]
    assert eventually(lambda: f" {network}." not in addresses(), within=NETWORK_GONE_WITHIN)


def groups_of(process: psutil.Process) -> list[str]:
    try:
        return re.findall(r"aima-lab-\w+", Path(f"/proc/{process.pid}/cgroup").read_text())
    except OSError:  # the process has exited
        return []


def control_groups() -> set[str]:
    """All by name, those of other tests' containers as well, which may be removed while they are listed."""
    return {Path(directory).name for directory, _, _ in os.walk("/sys/fs/cgroup")}


def addresses() -> str:
    return subprocess.run(["ip", "-4", "address"], capture_output=True, text=True, check=True).stdout


def steady(host: dict[str, object]) -> dict[str, object]:
    return {fact: value for fact, value in host.items() if fact not in CHANGES_BY_ITSELF}
