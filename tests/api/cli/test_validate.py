"""The catalog on the command line: validated without an API, reloaded on a node, its schemas and builds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from api.cli.outcome import Aima
from api.cli.stand_in import StandIn
from lab.running import ROOT

from aima_core.errors import CatalogMistake


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    file = tmp_path / "engines" / "asr" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("name: mine\ntype: asr\nport: many\n")
    return tmp_path


def test_the_shipped_catalog_is_valid(script: StandIn, aima: Aima) -> None:
    outcome = aima("engine", "validate")

    assert outcome.code == 0
    assert outcome.out.endswith("files valid\n")
    assert script.received == []


def test_a_mistake_is_reported_with_its_place(wrong: Path, aima: Aima) -> None:
    outcome = aima("engine", "validate", str(wrong))

    assert outcome.code == CatalogMistake.exit_code
    assert f"{wrong}/engines/asr/mine.yaml:3:7: port: " in outcome.err
    assert outcome.err.splitlines()[-1].endswith("in 1 file")


def test_the_overlay_of_the_operator_is_validated_too(wrong: Path, aima: Aima, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIMA_API__CATALOG", str(wrong))

    assert aima("engine", "validate").code == CatalogMistake.exit_code


def test_mistakes_are_available_as_json(wrong: Path, aima: Aima) -> None:
    reported = json.loads(aima("engine", "validate", str(wrong), "-o", "json").out)

    assert reported["files"] == 1
    assert any(mistake["line"] == 3 and mistake["field"] == "port" for mistake in reported["mistakes"])


def test_a_reload_that_keeps_the_previous_catalog_exits_with_the_mistakes(script: StandIn, aima: Aima) -> None:
    status = {"engines": 2, "models": 1, "profiles": 0, "overlay": "/etc/aima/catalog", "mistakes": "a.yaml:1:1: wrong"}
    script.answer("POST /v1/catalog:reload", status)

    outcome = aima("catalog", "reload")

    assert outcome.code == CatalogMistake.exit_code
    assert outcome.out == "Catalog: 2 engines, 1 model, 0 profiles; overlay: /etc/aima/catalog.\n"
    assert "a.yaml:1:1: wrong" in outcome.err


def test_the_loaded_catalog_is_shown(script: StandIn, aima: Aima) -> None:
    script.answer("GET /v1/catalog", {"engines": 1, "models": 1, "profiles": 1, "overlay": None, "mistakes": ""})

    assert aima("catalog", "show").out == "Catalog: 1 engine, 1 model, 1 profile.\n"


def test_the_schema_of_a_file_is_printed(aima: Aima) -> None:
    assert json.loads(aima("schema", "engine").out)["properties"]["image"]["type"] == "string"


def test_the_engines_that_can_be_built_are_listed_and_others_are_refused(aima: Aima) -> None:
    assert "dial-cpu" in aima("engine", "build").out.splitlines()

    refused = aima("engine", "build", "ollama-cpu")
    assert refused.code == 2
    assert "There is no build of `ollama-cpu`; choose one of dial-cpu" in refused.err


def test_whoever_installed_the_wheel_can_build_an_engine(tmp_path: Path) -> None:
    """As the build of the wheel lays out the packages, without the checkout."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    places = {each: each for each in ("aima_api", "aima_core")} | wheel["force-include"]
    for source, place in places.items():
        shutil.copytree(ROOT / source, tmp_path / "site" / place, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-P", "-c", "from aima_api.cli.main import main; main()"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "HOME": str(tmp_path / "home")}

    def aima(*words: str) -> bytes:
        done = subprocess.run([*command, *words], cwd=tmp_path, env=environment, check=True, capture_output=True)
        return done.stdout

    assert b"dial-cpu" in aima("engine", "build").splitlines()
    aima("engine", "build", "--native", "dial-cpu")
    assert (tmp_path / "home/.local/bin/aima-dial").exists()
