"""The table of failures keeps its promises, and whoever raises a row tells all that its sentence and hint want."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from string import Formatter

import pytest

from aima_core.errors import AimaError, BadId, Failure, exit_code_of, table

ROOT = Path(__file__).parents[2]
ROWS = {row.__name__: row for row in table()}
ROW = pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))


def test_no_two_failures_share_a_code() -> None:
    assert repeated(row.code for row in table()) == []


def test_no_two_failures_share_an_exit_code() -> None:
    assert repeated(row.exit_code for row in table()) == []


@ROW
def test_an_exit_code_says_failure_and_is_not_one_that_shells_use(row: type[AimaError]) -> None:
    assert 1 <= row.exit_code < 126
    assert row.exit_code != 2, "2 is a mistake in the command line"


@ROW
def test_a_status_is_one_that_http_has_for_failures(row: type[AimaError]) -> None:
    assert HTTPStatus(row.status) >= HTTPStatus.BAD_REQUEST


@ROW
def test_a_failure_has_a_sentence_and_says_what_to_do(row: type[AimaError]) -> None:
    failure = row(**dict.fromkeys(facts_of(row), "something")).failure

    assert failure.code == row.code
    assert failure.message.strip()
    assert failure.hint.strip()


@ROW
def test_a_sentence_ends_as_sentences_do_unless_a_fact_ends_it(row: type[AimaError]) -> None:
    assert row.sentence.endswith((".", "}"))
    assert row.hint.endswith((".", "}", "?"))


def test_a_fact_may_hold_braces() -> None:
    failure = BadId(text="{x}", kind="{kind}", example="{").failure

    assert "{x}" in failure.message


def test_the_exit_code_of_a_failure_that_a_newer_version_knows_is_one() -> None:
    assert exit_code_of("bad_id") == BadId.exit_code
    assert exit_code_of("invented_next_year") == 1


def test_a_failure_survives_a_message() -> None:
    failure = BadId(text="x", kind="service id", example="svc-a-b", log_tail=("one", "two")).failure

    assert Failure.model_validate_json(failure.model_dump_json()) == failure
    assert failure.log_tail == ("one", "two")


# What the code tells when it raises a row -------------------------------------------------------------------------


def test_whoever_makes_a_failure_tells_exactly_the_facts_that_it_wants() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{call.lineno}: {row.__name__} wants {sorted(facts_of(row))}, told {sorted(told)}"
        for file in sources()
        for call, row in failures_made(ast.parse(file.read_text()))
        if (told := facts_told(call)) is not None and told != facts_of(row)
    ]

    assert wrong == []


def test_that_check_sees_a_fact_missing_a_fact_too_many_and_a_module_in_front() -> None:
    code = "BadId(text=1)\nfailures.BadId(text=1, kind=2, example=3, colour=4)\nBadId(**facts)\nBadId(1)\nprint(text=1)"

    told = [(call.lineno, facts_told(call)) for call, _ in failures_made(ast.parse(code))]

    assert told == [(1, {"text"}), (2, {"text", "kind", "example", "colour"}), (3, None), (4, {"(positional)"})]


def sources() -> list[Path]:
    return sorted(file for package in ROOT.glob("aima_*/") for file in package.rglob("*.py"))


def failures_made(tree: ast.AST) -> Iterator[tuple[ast.Call, type[AimaError]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (row := ROWS.get(called(node.func))):
            yield node, row


def called(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def facts_told(call: ast.Call) -> set[str] | None:
    """The names of the facts; None where a splat hides them."""
    if any(keyword.arg is None for keyword in call.keywords):
        return None
    positional = {"(positional)"} if call.args else set()
    return positional | {str(keyword.arg) for keyword in call.keywords} - {"log_tail"}


def repeated(values: Iterable[object]) -> list[object]:
    return [value for value, times in Counter(values).items() if times > 1]


def facts_of(row: type[AimaError]) -> set[str]:
    """The names of the facts in a row's sentence and hint."""
    return {name for text in (row.sentence, row.hint) for _, name, _, _ in Formatter().parse(text) if name}
