"""The systemd units: valid, hardened, without keys in the environment, and consistent with the settings."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from documents.test_documents import is_setting
from lab.parts import missing
from lab.running import ROOT

from aima_api.cli.main import root
from aima_core.errors import BadSettings
from aima_core.settings import load_settings

DIRECTORY = ROOT / "deploy/systemd"
COMES_BACK_WITHIN = timedelta(seconds=3)
EXPOSURE = {"api": 3.0, "flower": 3.0, "worker": 4.2}
"""The most that `systemd-analyze security` may rate. The worker is root for what its unit names."""
UNKNOWN_BEFORE_254 = "Unknown key 'DelegateSubgroup'"
every_role = pytest.mark.parametrize("role", EXPOSURE)


class Unit(configparser.RawConfigParser):
    def optionxform(self, optionstr: str) -> str:
        return optionstr


def unit_of(role: str) -> Path:
    return DIRECTORY / f"aima-{role}.service"


def service_of(role: str) -> configparser.SectionProxy:
    unit = Unit(comment_prefixes=("#",), delimiters=("=",), strict=False)
    unit.read(unit_of(role))
    return unit["Service"]


@every_role
def test_a_unit_runs_an_existing_command(role: str) -> None:
    program, *words = service_of(role)["ExecStart"].split()

    assert program == "/opt/aima/current/bin/aima"
    assert words == [role]
    assert root.get_command(root.make_context("aima", [], resilient_parsing=True), role) is not None


@every_role
def test_a_unit_reads_its_own_settings_and_credentials_and_has_a_state_directory_of_its_own(role: str) -> None:
    service = service_of(role)

    assert service["EnvironmentFile"] == f"/etc/aima/{role}.env"
    assert (DIRECTORY / f"{role}.env").exists()
    assert service["LoadCredential"] == f"aima:/etc/aima/credentials/{role}"
    assert f"AIMA_STATE_DIR=/var/lib/{service['StateDirectory'].split()[0]}" in service["Environment"].split()
    assert len({service_of(each)["StateDirectory"] for each in EXPOSURE}) == len(EXPOSURE)


@every_role
def test_no_key_or_password_is_given_by_the_environment(role: str) -> None:
    named = variables((DIRECTORY / f"{role}.env").read_text(), shown=True)

    secret = re.compile(r"REDIS__URL|SIGNING_KEY|API__KEYS|PASSWORD")
    assert [name for name in named if secret.search(name)] == []


def test_a_killed_worker_is_restarted_and_native_engines_are_left_alone() -> None:
    service = service_of("worker")

    assert (service["Restart"], service["TimeoutStopSec"]) == ("always", "15")
    assert float(service["RestartSec"]) < COMES_BACK_WITHIN.total_seconds()
    assert (service["KillMode"], service["OOMPolicy"]) == ("process", "continue")
    assert (service["RuntimeDirectory"], service["RuntimeDirectoryPreserve"]) == ("aima", "yes")
    assert service["RestartPreventExitStatus"] == str(BadSettings.exit_code)


def test_the_worker_keeps_its_capabilities_and_may_write_its_own_control_groups_only() -> None:
    service = service_of("worker")

    assert "User" not in service, (
        "systemd 257 takes CAP_SETUID away from a root that is named, if it filters system calls"
    )
    assert "CAP_SETUID" in service["CapabilityBoundingSet"].split()
    assert (service["Delegate"], service["DelegateSubgroup"]) == ("memory pids", "worker")
    assert service["ProtectControlGroups"] == "yes"


def test_a_worker_starts_with_the_documented_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables((DIRECTORY / "worker.env").read_text(), shown=True).items():
        monkeypatch.setenv(name, value)

    settings = load_settings()

    assert settings.host.name == "spark-01"
    assert settings.host.model_roots == (Path("/srv/models"),)
    assert settings.signing_key is None


@every_role
def test_every_variable_is_a_setting(role: str) -> None:
    text, service = (DIRECTORY / f"{role}.env").read_text(), service_of(role)
    named = variables(text, shown=True) | variables(service["Environment"].replace(" ", "\n"))

    assert len(named) > 4
    assert [name for name in named if name.startswith("AIMA_") and not is_setting(name)] == []


@every_role
def test_systemd_analyze_finds_no_mistakes(role: str, tmp_path: Path) -> None:
    need_systemd()
    there = tmp_path / "aima"
    there.touch(mode=0o755)
    unit = tmp_path / unit_of(role).name
    unit.write_text(unit_of(role).read_text().replace("/opt/aima/current/bin/aima", str(there)))

    verified = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)

    mistakes = [line for line in verified.stderr.splitlines() if unit.name in line]
    assert [line for line in mistakes if UNKNOWN_BEFORE_254 not in line] == []


@every_role
def test_a_unit_is_hardened(role: str) -> None:
    need_systemd()
    threshold = f"--threshold={EXPOSURE[role] * 10:.0f}"

    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", threshold, unit_of(role)],
        capture_output=True,
        text=True,
    )

    assert rated.returncode == 0, rated.stdout[-200:] + rated.stderr


def need_systemd() -> None:
    if shutil.which("systemd-analyze") is None:
        missing("there is no systemd-analyze; `deploy/install --tests` brings the package systemd")


def variables(text: str, *, shown: bool = False) -> dict[str, str]:
    """The variables as systemd parses them, commented ones included if `shown`."""
    lines = re.findall(rf"^{'#?' if shown else ''}(\w+)=(.*)$", text, re.MULTILINE)
    return {name: "".join(shlex.split(value)) for name, value in lines}
