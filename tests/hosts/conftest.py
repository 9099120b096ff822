"""Several hosts shared by the tests of some files, without faults and idle before and after each test."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from engines.conftest import build_image, engine_of
from lab.fleet_of_hosts import FleetOfHosts, fleet_of_hosts
from lab.host import HostPlan, a_cpu_host, a_gb10

DIAL_IMAGE = "aima/dial:1"
VLLM = "vllm-0.14.0-cu131-gb10"
WEIGHTS = "GLM-4.7-Flash"
OTHER_WEIGHTS = "SenseVoiceSmall", "Qwen3-TTS-0.6B"
SMALL = {"memory": "4GB"}
"""3.8 GB without the reserve: memory for one `heavy`, and for any number of `light`."""
PATIENT = {"path": "/health", "timeout": "2m"}
"""A health check that allows any load time of a test."""


@pytest.fixture(scope="session")
def dial_image() -> str:
    build_image(DIAL_IMAGE)
    return DIAL_IMAGE


@pytest.fixture(scope="package")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of GLM-4.7-Flash, beside those of the other models of the GB10's profile."""
    root = tmp_path_factory.mktemp("models")
    for name in (WEIGHTS, *OTHER_WEIGHTS):
        (root / name).mkdir()
        (root / name / "config.json").write_text("{}")
    return root / WEIGHTS


@pytest.fixture(scope="package")
def shared_fleet(weights: Path, dial_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetOfHosts]:
    """A GB10 that has the weights, two hosts with memory for one heavy engine each, and two API nodes.

    Its files run one after another (tests/conftest.py).
    """
    roots = {"AIMA_HOST__MODEL_ROOTS": json.dumps([str(weights.parent)])}
    plans = a_gb10("spark-01", **roots), a_cpu_host("cpu-01", facts=SMALL), a_cpu_host("cpu-02", facts=SMALL)
    with fleet_of_hosts(*plans, logs=tmp_path_factory.mktemp("fleet"), nodes=2, images=[dial_image]) as fleet:
        fleet.wait_live()
        yield fleet


@pytest.fixture(scope="module")
def fleet_of_this_file(shared_fleet: FleetOfHosts) -> FleetOfHosts:
    """Overridden by files that need other hosts. Of another file's, no host is left drained and none added is known."""
    if shared_fleet.states().keys() != {host.name for host in shared_fleet.hosts}:
        shared_fleet.redis.lose_everything()
        shared_fleet.wait_live()
    for host in shared_fleet.hosts:
        shared_fleet.node().post(f"/v1/hosts/{host.name}:resume", {})
    return shared_fleet


@pytest.fixture(scope="module")
def own_fleet(
    plans: tuple[HostPlan, ...], dial_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FleetOfHosts]:
    """Of the hosts that a file plans, with one API node."""
    with fleet_of_hosts(*plans, logs=tmp_path_factory.mktemp("fleet"), nodes=1, images=[dial_image]) as fleet:
        fleet.wait_live()
        yield fleet


@pytest.fixture
def fleet(fleet_of_this_file: FleetOfHosts) -> Iterator[FleetOfHosts]:
    """Every host is live and idle and has the dial image."""
    yield fleet_of_this_file
    fleet_of_this_file.make_whole()
    fleet_of_this_file.clear()


# Placement ---------------------------------------------------------------------------------------------------------


def offer_dials(fleet: FleetOfHosts, **more: Mapping[str, Any]) -> None:
    """Test engines under several names, each the only one of its type, and one that replaces vLLM.

    A host has memory for one `heavy` and any number of `light`; `more` adds engines by type, with their changes.
    """
    kinds = {"light": {}, "heavy": {"requires": on_any_cpu(memory="2GB")}, **more}
    dials = [
        ("dial-cpu", {"name": f"{kind}-cpu", "type": kind, "health_check": PATIENT, **changes})
        for kind, changes in kinds.items()
    ]
    fleet.offer_all((VLLM, dial_in_place()), *dials)


def dial_in_place() -> dict[str, object]:
    """What changes in an engine's entry to run the test engine, which serves no API and is given no names."""
    dial = engine_of("dial-cpu")
    return {
        "image": DIAL_IMAGE,
        "alternatives": [],
        "image_size": "2MB",
        "command": [*dial.command],
        "arguments": dict(dial.arguments),
        "port": dial.port,
        "serves": [],
        "names": None,
        "ready": None,
        "health_check": PATIENT,
    }


def on_any_cpu(*, memory: str) -> dict[str, object]:
    return {"platforms": ["linux/arm64", "linux/amd64"], "memory": memory}
