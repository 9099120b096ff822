"""Each fault of `docs/faults.md` and each threat of `docs/security.md` has a mechanism, and a test fails without it.

Every run checks that the edits fit the code. With `--long` each mechanism is switched off in a copy of the project; the
mechanisms of one fault by hand: `python -m switches --row 5`, from `tests/`.
"""

from __future__ import annotations

import ast

import pytest
from documents.reading import ROOT
from documents.test_faults_page import rows
from documents.test_security_page import threats
from lab.available import why_not
from lab.parts import missing
from switches.table import Switch, attacks, switches
from switches.without import LONGEST, copy_of_the_project, played_without

ALL = [*switches(), *attacks()]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    if reason := why_not("docker"):
        missing(reason)
    return copy_of_the_project(tmp_path_factory.mktemp("without"))


def test_every_fault_has_a_mechanism_that_can_be_switched_off():
    assert {switch.row for switch in switches()} == {number for number, _ in rows()}


@pytest.mark.parametrize("switch", ALL, ids=str)
def test_a_switch_fits_the_code_and_names_tests_of_its_fault(switch: Switch):
    for edit in switch.edits:
        text = (ROOT / edit.file).read_text()
        assert text.count(edit.was) == 1, edit
        assert edit.was != edit.becomes
        if edit.file.endswith(".py"):
            ast.parse(text.replace(edit.was, edit.becomes))
    assert set(switch.fails) <= set({**dict(rows()), **dict(threats())}[switch.row])


@pytest.mark.long
@pytest.mark.redis
@pytest.mark.timeout(LONGEST + 60)
@pytest.mark.parametrize("switch", ALL, ids=str)
def test_without_the_mechanism_a_test_fails(switch: Switch, copy):
    outcome = played_without(switch, copy)

    assert outcome.noticed_by, outcome.said
