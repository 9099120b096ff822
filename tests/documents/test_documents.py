"""Paths, links, commands, options and variables that documents and hints name exist."""

from __future__ import annotations

from pathlib import Path

import pytest
from documents.grammar import mistakes_in
from documents.reading import (
    ROOT,
    anchors,
    commands,
    commands_in,
    links,
    paths,
    spans,
    variables,
)

from aima_core.errors import table
from aima_core.settings import FILE_SUFFIX, Settings

CLIENT_VARIABLES = {"AIMA_URL", "AIMA_KEY", "AIMA_CA", "AIMA_CONFIG"}
"""Not settings of a node: the API's URL, its key, and the path of the settings."""


def test_every_path_in_a_document_exists() -> None:
    absent = [str(each) for each in paths() if not (ROOT / each.text).exists()]

    assert absent == []


def test_every_link_has_its_file_and_heading() -> None:
    broken = [f"{document.relative_to(ROOT)}: {target}" for document, target in links() if not leads(document, target)]

    assert broken == []


def test_every_command_line_in_a_document_is_valid() -> None:
    wrong = [f"{each}: {mistake}" for each in commands() for mistake in mistakes_in(each.text)]

    assert wrong == []


@pytest.mark.parametrize("row", table(), ids=lambda row: row.code)
def test_every_command_in_a_hint_is_valid(row: type) -> None:
    advised = [command for span in spans(row.hint) for command in commands_in(span)]

    assert [mistake for command in advised for mistake in mistakes_in(command)] == []


def test_every_variable_in_a_document_is_a_setting() -> None:
    unknown = [str(each) for each in variables() if not is_setting(each.text)]

    assert unknown == []


@pytest.mark.parametrize(
    ("line", "mistakes"),
    [
        ("aima service start svc-vllm-qwen3-32b --wait", 0),
        ("aima service list|status", 0),
        ("aima engine list|forge", 1),
        ("aima service strat ID", 1),
        ("aima service start ID [--wait|--no-wait] [--soon]", 1),
        ("aima --url http://127.0.0.1:7080 host list -o json", 0),
    ],
)
def test_a_command_line_is_read_as_people_write_it(line: str, mistakes: int) -> None:
    assert len(mistakes_in(line)) == mistakes


def leads(document: Path, target: str) -> bool:
    file, _, heading = target.partition("#")
    to = (document.parent / file) if file else document
    return to.exists() and (not heading or heading in anchors(to))


def is_setting(variable: str) -> bool:
    if variable in CLIENT_VARIABLES:
        return True
    fields = Settings.model_fields
    for name in variable.removeprefix("AIMA_").removesuffix(FILE_SUFFIX).lower().split("__"):
        if name not in fields:
            return False
        fields = getattr(fields[name].annotation, "model_fields", {})
    return True
