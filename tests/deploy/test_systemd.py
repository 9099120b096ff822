"""The systemd unit of a worker host and its environment file: valid, and consistent with the settings."""

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
from lab.running import ROOT

from aima_api.cli.main import root
from aima_core.errors import BadSettings
from aima_core.settings import load_settings

DIRECTORY = ROOT / "deploy/systemd"
UNIT = DIRECTORY / "aima-worker.service"
ENVIRONMENT = DIRECTORY / "aima.env"
COMES_BACK_WITHIN = timedelta(seconds=3)


class Unit(configparser.RawConfigParser):
    def optionxform(self, optionstr: str) -> str:
        return optionstr


@pytest.fixture
def service() -> configparser.SectionProxy:
    unit = Unit(comment_prefixes=("#",), delimiters=("=",))
    unit.read(UNIT)
    return unit["Service"]


def test_the_unit_runs_an_existing_command(service: configparser.SectionProxy) -> None:
    program, *words = service["ExecStart"].split()

    assert Path(program).name == "aima"
    assert root.get_command(root.make_context("aima", [], resilient_parsing=True), words[0]) is not None


def test_the_unit_reads_only_files_that_are_shipped(service: configparser.SectionProxy) -> None:
    assert Path(service["EnvironmentFile"]).name == ENVIRONMENT.name
    assert service["StateDirectory"] == "aima"
    assert "AIMA_STATE_DIR=/var/lib/aima" in service["Environment"].split()


def test_a_killed_worker_is_restarted_and_native_engines_are_left_alone(service: configparser.SectionProxy) -> None:
    assert (service["Restart"], service["TimeoutStopSec"]) == ("always", "15")
    assert float(service["RestartSec"]) < COMES_BACK_WITHIN.total_seconds()
    assert (service["KillMode"], service["OOMPolicy"]) == ("process", "continue")
    assert service["RestartPreventExitStatus"] == str(BadSettings.exit_code)


def test_a_worker_starts_with_the_documented_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables(ENVIRONMENT.read_text(), shown=True).items():
        monkeypatch.setenv(name, value)

    settings = load_settings()

    assert settings.host.name == "spark-01"
    assert settings.host.model_roots == (Path("/srv/models"),)
    assert settings.signing_key is None
    assert len(settings.trusted_keys) == 1


def test_every_variable_is_a_setting(service: configparser.SectionProxy) -> None:
    named = variables(ENVIRONMENT.read_text(), shown=True) | variables(service["Environment"].replace(" ", "\n"))

    assert len(named) > 10
    assert [name for name in named if name.startswith("AIMA_") and not is_setting(name)] == []


def test_systemd_analyze_finds_no_mistakes(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("this machine has no systemd; the tests above have read the unit")
    there = tmp_path / "aima"
    there.touch(mode=0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/aima/bin/aima", str(there)))

    verified = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)

    complaints = [line for line in verified.stderr.splitlines() if UNIT.name in line]
    assert complaints == []


def variables(text: str, *, shown: bool = False) -> dict[str, str]:
    """The variables as systemd parses them, commented ones included if `shown`."""
    lines = re.findall(rf"^{'#?' if shown else ''}(\w+)=(.*)$", text, re.MULTILINE)
    return {name: "".join(shlex.split(value)) for name, value in lines}
