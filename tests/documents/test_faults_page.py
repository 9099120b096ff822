"""The table of faults is complete, and names tests that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from documents.reading import ROOT, spans

PAGE = ROOT / "docs/faults.md"
FAULTS = 37
"""The faults of the first table; new ones are appended."""


def rows() -> Iterator[tuple[int, list[str]]]:
    """Each fault's number, and the tests named for it."""
    for line in PAGE.read_text().splitlines():
        if numbered := re.match(r"\| (\d+) \|", line):
            yield int(numbered[1]), spans(line.split("|")[4])


def those_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_fault_is_there_once_and_has_a_test() -> None:
    found = list(rows())

    assert [number for number, _ in found] == list(range(1, max(FAULTS, len(found)) + 1))
    assert [number for number, tests in found if not tests] == []


def test_every_test_named_for_a_fault_exists() -> None:
    absent = [
        f"{number}: {named}"
        for number, tests in rows()
        for named in tests
        if named.partition("::")[2] not in those_of(named.partition("::")[0])
    ]

    assert absent == []
