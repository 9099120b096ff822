"""Several hosts for all tests of a file, whole and idle before each of them and after."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from engines.conftest import script
from lab.fleet_of_hosts import FleetOfHosts, fleet_of_hosts
from lab.host import HostPlan, a_cpu_host, a_gb10

DIAL_IMAGE = "aima/dial:1"


@pytest.fixture(scope="module")
def plans() -> tuple[HostPlan, ...]:
    """Which hosts; a file that wants others defines this anew."""
    return a_gb10("spark-01"), a_cpu_host("cpu-01"), a_cpu_host("cpu-02")


@pytest.fixture(scope="module")
def dial_image() -> str:
    script("build", "dial")
    return DIAL_IMAGE


@pytest.fixture(scope="module")
def fleet_of_this_file(
    plans: tuple[HostPlan, ...], dial_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FleetOfHosts]:
    with fleet_of_hosts(*plans, logs=tmp_path_factory.mktemp("fleet")) as fleet:
        fleet.take(dial_image)
        fleet.wait_live()
        yield fleet


@pytest.fixture
def fleet(fleet_of_this_file: FleetOfHosts) -> Iterator[FleetOfHosts]:
    """Every host live, with the image of the dial, and nothing running."""
    yield fleet_of_this_file
    fleet_of_this_file.make_whole()
    fleet_of_this_file.clear()
