"""The published JSON Schemas accept what the loader accepts, and mark what it refuses by its structure."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from api.catalog.entries import ENGINE, MODEL, PROFILE
from jsonschema import Draft202012Validator

from aima_api.catalog.loader import SHIPPED, json_schema

ENTRIES = {"engine": ENGINE, "model": MODEL, "profile": PROFILE}
SHIPPED_FILES = [(folder.name[:-1], file) for folder in SHIPPED.iterdir() for file in folder.rglob("*.yaml")]


def mistakes(kind: str, entry: dict[str, Any]) -> list[str]:
    return [each.message for each in Draft202012Validator(json_schema(kind)).iter_errors(entry)]


@pytest.mark.parametrize(("kind", "file"), SHIPPED_FILES, ids=lambda value: getattr(value, "stem", value))
def test_every_shipped_file_is_valid(kind: str, file: Any) -> None:
    assert mistakes(kind, yaml.safe_load(file.read_text())) == []


@pytest.mark.parametrize("kind", ENTRIES)
def test_an_unknown_field_and_a_missing_one_are_marked(kind: str) -> None:
    entry = yaml.safe_load(ENTRIES[kind])
    unknown, missing = entry | {"colour": "grey"}, {name: value for name, value in entry.items() if name != "name"}

    assert mistakes(kind, entry) == []
    assert mistakes(kind, unknown) == ["Additional properties are not allowed ('colour' was unexpected)"]
    assert mistakes(kind, missing) == ["'name' is a required property"]


def test_an_unknown_field_of_a_section_is_marked() -> None:
    entry = yaml.safe_load(ENGINE)
    entry["health_check"]["often"] = True

    assert mistakes("engine", entry) == ["Additional properties are not allowed ('often' was unexpected)"]
