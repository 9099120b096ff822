"""Programs of arm64, emulated: an image on this machine's Docker Engine, and a host whose worker is of arm64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from urllib.request import urlopen

import docker
import pytest
from hosts.conftest import DIAL_IMAGE
from lab.arm64 import dial_archive, emulation, worker_of_arm64
from lab.fleet_of_hosts import FleetOfHosts, fleet_of_hosts
from lab.host import HostPlan
from lab.look_alike import archive_of
from lab.parts import eventually, free_port

from aima_core import errors

pytestmark = [pytest.mark.docker, pytest.mark.redis, pytest.mark.registry, pytest.mark.slow, pytest.mark.timeout(300)]
SERVICE = "svc-tiny-dial"
HOST = "arm-01"
EMULATED_START = timedelta(seconds=100)
"""An emulated worker imports its packages in half a minute on one core."""


@pytest.fixture(scope="module")
def emulated() -> Iterator[None]:
    with emulation():
        yield


@pytest.mark.usefixtures("emulated")
def test_an_engine_of_arm64_serves_from_its_container():
    port = free_port()
    with closing(docker.from_env()) as client:
        name = "aima-lab/dial-arm64:1"
        (image,) = client.images.load(dial_archive(name))
        command = ["aima-dial", "--host", "0.0.0.0", "--port", "8000"]
        container = client.containers.run(image.id, command, detach=True, ports={"8000/tcp": ("127.0.0.1", port)})
        try:
            assert image.attrs["Architecture"] == "arm64"
            assert eventually(lambda: answers(f"http://127.0.0.1:{port}"), within=timedelta(seconds=60)), (
                container.logs()
            )
            assert container.exec_run(["uname", "-m"]).output.strip() == b"aarch64"
        finally:
            container.remove(force=True)
            client.images.remove(name)


@pytest.fixture
def fleet(emulated: None, dial_image: str, tmp_path: Path) -> Iterator[FleetOfHosts]:
    plan = HostPlan(HOST, worker=worker_of_arm64)
    with fleet_of_hosts(plan, logs=tmp_path, nodes=1) as fleet:
        fleet.wait_live(within=EMULATED_START)
        yield fleet


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_worker_of_arm64_starts_logs_and_stops_by_its_route_and_refuses_images_of_amd64(fleet: FleetOfHosts):
    node, host = fleet.node(), fleet[HOST]
    facts = node.record("host", "show", HOST)
    assert facts["arch"] == "arm64"
    assert "cpu.arm64" in facts["routes"]

    host.engine.load(dial_archive(DIAL_IMAGE))
    started = node.aima("service", "start", SERVICE, "--route", "cpu.arm64", "--expose", "--wait")

    assert started.returncode == 0, started.stderr
    assert node.instance(SERVICE)["id"] == f"{SERVICE}@{HOST}"
    assert answers(node.instance(SERVICE)["endpoint"])
    logs = node.aima("service", "logs", SERVICE)
    assert logs.stdout, logs.stderr
    stopped = node.aima("service", "stop", SERVICE, "--wait")
    assert stopped.returncode == 0, stopped.stderr
    assert host.engine.containers() == []

    host.engine.load(archive_of(DIAL_IMAGE, arch="amd64"))
    refused = node.aima("service", "start", SERVICE, "--wait")

    assert refused.returncode == errors.ImageWrongArch.exit_code, refused.stderr
    assert "amd64" in refused.stderr
    assert host.engine.containers() == []


def answers(endpoint: str) -> bool:
    try:
        with urlopen(f"{endpoint}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
