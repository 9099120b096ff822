"""A profile's services come up together on a simulated GB10, within its memory; their engines are stand-ins."""

from __future__ import annotations

import json

import pytest
from hosts.conftest import dial_in_place
from lab.fleet_of_hosts import FleetOfHosts
from lab.host import HostPlan, a_gb10

pytestmark = [pytest.mark.docker, pytest.mark.redis, pytest.mark.registry, pytest.mark.slow]
SERVICES = ["svc-asr-sensevoicesmall", "svc-tts-qwen3-tts-0.6b", "svc-vllm-glm-4.7-flash"]
ENGINES = ["vllm-0.14.0-cu131-gb10", "funasr-sensevoice-cpu", "qwen-tts-cpu"]
MODELS = ["GLM-4.7-Flash", "SenseVoiceSmall", "Qwen3-TTS-0.6B"]


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> tuple[HostPlan, ...]:
    root = tmp_path_factory.mktemp("models")
    for name in MODELS:
        (root / name).mkdir()
        (root / name / "config.json").write_text("{}")
    return (a_gb10("spark-01", AIMA_HOST__MODEL_ROOTS=json.dumps([str(root)])),)


def test_the_gb10_profile_brings_up_its_three_services_side_by_side_within_its_memory(fleet: FleetOfHosts):
    fleet.offer_all(*((engine, dial_in_place()) for engine in ENGINES))
    node = fleet.node()

    applied = node.aima("profile", "apply", "nvidia-gb10", "--wait")

    assert applied.returncode == 0, applied.stderr
    ready = [line for line in applied.stdout.splitlines() if line.startswith("✓")]
    assert sorted(line.split()[1] for line in ready) == SERVICES
    hosts = {each["id"]: each["instances"][0]["host"] for each in node.record("service", "list")}
    assert hosts == dict.fromkeys(SERVICES, "spark-01")
    models = {each["name"]: each["files"] for each in node.record("model", "list")}
    assert [models[name] for name in MODELS] == [["spark-01"]] * 3
    again = node.aima("profile", "apply", "nvidia-gb10", "--wait")
    assert (again.returncode, again.stderr) == (0, "Unchanged: it runs as asked.\n")
