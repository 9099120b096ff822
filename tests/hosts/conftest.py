"""Several hosts shared by the tests of a file, without faults and idle before and after each test."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from engines.conftest import engine_of, script
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


@pytest.fixture(scope="module")
def plans() -> tuple[HostPlan, ...]:
    """The hosts; overridden by files that need others."""
    return a_gb10("spark-01"), a_cpu_host("cpu-01"), a_cpu_host("cpu-02")


@pytest.fixture(scope="module")
def nodes() -> int:
    """The number of API nodes; overridden by files that need two."""
    return 1


@pytest.fixture(scope="module")
def dial_image() -> str:
    script("build", "dial")
    return DIAL_IMAGE


@pytest.fixture(scope="module")
def fleet_of_this_file(
    plans: tuple[HostPlan, ...], nodes: int, dial_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FleetOfHosts]:
    with fleet_of_hosts(*plans, logs=tmp_path_factory.mktemp("fleet"), nodes=nodes, images=[dial_image]) as fleet:
        fleet.wait_live()
        yield fleet


@pytest.fixture
def fleet(fleet_of_this_file: FleetOfHosts) -> Iterator[FleetOfHosts]:
    """Every host is live and idle and has the dial image."""
    yield fleet_of_this_file
    fleet_of_this_file.make_whole()
    fleet_of_this_file.clear()


# Placement ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_plans(weights: Path) -> tuple[HostPlan, ...]:
    """A GB10 that has the weights, and two hosts with memory for one heavy engine each."""
    roots = {"AIMA_HOST__MODEL_ROOTS": json.dumps([str(weights.parent)])}
    return a_gb10("spark-01", **roots), a_cpu_host("cpu-01", facts=SMALL), a_cpu_host("cpu-02", facts=SMALL)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of GLM-4.7-Flash, beside those of the other models of the GB10's profile."""
    root = tmp_path_factory.mktemp("models")
    for name in (WEIGHTS, *OTHER_WEIGHTS):
        (root / name).mkdir()
        (root / name / "config.json").write_text("{}")
    return root / WEIGHTS


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
