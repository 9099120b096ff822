"""The threat model names tests that exist, and every threat has a switch that opens the hole again."""

from __future__ import annotations

import re
from collections.abc import Iterator

from documents.reading import ROOT, spans
from documents.test_faults_page import those_of
from switches.table import attacks

PAGE = ROOT / "docs/security.md"


def threats() -> Iterator[tuple[str, list[str]]]:
    """Each threat's name, and the tests named for it."""
    for line in PAGE.read_text().splitlines():
        if named := re.match(r"\| `([a-z0-9-]+)` \|", line):
            yield named[1], spans(line.split("|")[4])


def test_every_threat_is_there_once_and_has_a_test() -> None:
    names = [name for name, _ in threats()]

    assert sorted(names) == sorted(set(names))
    assert [name for name, tests in threats() if not tests] == []


def test_every_test_named_for_a_threat_exists() -> None:
    absent = [
        f"{name}: {test}"
        for name, tests in threats()
        for test in tests
        if test.partition("::")[2].partition("[")[0] not in those_of(test.partition("::")[0])
    ]

    assert absent == []


def test_every_threat_has_a_switch() -> None:
    assert {switch.row for switch in attacks()} == {name for name, _ in threats()}
