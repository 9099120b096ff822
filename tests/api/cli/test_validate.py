"""`aima engine validate` reads files without an API and counts mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from api.cli.outcome import Aima
from api.cli.stand_in import StandIn

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
