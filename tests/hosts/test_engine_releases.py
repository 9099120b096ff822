"""A service's life on container engines of other releases than this machine's."""

from __future__ import annotations

from urllib.request import urlopen

import pytest
from hosts.conftest import DIAL_IMAGE
from lab.fleet_of_hosts import FleetOfHosts
from lab.host import HostPlan, a_cpu_host
from lab.unpacked import DOCKER_28, unpacked

pytestmark = [pytest.mark.docker, pytest.mark.redis, pytest.mark.registry, pytest.mark.slow, pytest.mark.timeout(400)]
"""The first test may download and unpack the release."""
SERVICE = "svc-tiny-dial"
HOST = "newer-01"


@pytest.fixture(scope="module")
def plans() -> tuple[HostPlan, ...]:
    return (a_cpu_host(HOST)._replace(system=unpacked(DOCKER_28)),)


@pytest.fixture(scope="module")
def fleet_of_this_file(own_fleet: FleetOfHosts) -> FleetOfHosts:
    return own_fleet


def test_on_docker_28_a_service_is_pulled_started_queried_crashed_restarted_and_stopped(fleet: FleetOfHosts):
    node, host = fleet.node(), fleet[HOST]
    assert int(node.record("host", "show", HOST)["runtime_version"].partition(".")[0]) >= 28
    image = fleet.publish(DIAL_IMAGE, name="dial:1")
    with host.engine.client() as client:
        client.images.remove(DIAL_IMAGE)
    fleet.offer("dial-cpu", image=image)

    started = node.aima("service", "start", SERVICE, "--host", HOST, "--expose", "--wait")

    assert started.returncode == 0, started.stderr
    assert "pulling" in started.stdout
    endpoint = node.instance(SERVICE)["endpoint"]
    assert urlopen(f"{endpoint}/health", timeout=60).read() == b"ok\n"
    logs = node.aima("service", "logs", SERVICE)
    assert logs.returncode == 0, logs.stderr
    assert logs.stdout

    with host.engine.client() as client:
        (name,) = host.engine.containers()
        client.containers.get(name).kill()

    fleet.wait_until(lambda: node.instance(SERVICE)["state"] == "ready" and answers(node.instance(SERVICE)["endpoint"]))
    stopped = node.aima("service", "stop", SERVICE, "--wait")
    assert stopped.returncode == 0, stopped.stderr
    assert host.engine.containers() == []
    assert node.record("port", "list") == []


def answers(endpoint: str) -> bool:
    with urlopen(f"{endpoint}/health", timeout=2) as answer:
        return bool(answer.status == 200)
