"""The table of failures is consistent, and every raise passes the facts of its sentence and hint."""

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
def test_an_exit_code_is_nonzero_and_not_reserved_by_shells(row: type[AimaError]) -> None:
    assert 1 <= row.exit_code < 126 or 193 <= row.exit_code < 255, "126 to 192 are errors of shells and signals"
    assert row.exit_code != 2, "2 is a mistake in the command line"


@ROW
def test_a_status_is_an_http_error_status(row: type[AimaError]) -> None:
    assert HTTPStatus(row.status) >= HTTPStatus.BAD_REQUEST


@ROW
def test_a_failure_has_a_sentence_and_a_hint(row: type[AimaError]) -> None:
    failure = row(**dict.fromkeys(facts_of(row), "something")).failure

    assert failure.code == row.code
    assert failure.message.strip()
    assert failure.hint.strip()


@ROW
def test_a_sentence_ends_with_a_full_stop_unless_it_ends_with_a_fact(row: type[AimaError]) -> None:
    assert row.sentence.endswith((".", "}"))
    assert row.hint.endswith((".", "}", "?"))


def test_a_fact_can_contain_braces() -> None:
    failure = BadId(text="{x}", kind="{kind}", example="{").failure

    assert "{x}" in failure.message


def test_the_exit_code_of_a_failure_of_a_newer_version_is_one() -> None:
    assert exit_code_of("bad_id") == BadId.exit_code
    assert exit_code_of("invented_next_year") == 1


def test_a_failure_survives_serialization() -> None:
    failure = BadId(text="x", kind="service id", example="svc-a-b", log_tail=("one", "two")).failure

    assert Failure.model_validate_json(failure.model_dump_json()) == failure
    assert failure.log_tail == ("one", "two")


# Facts at each raise ----------------------------------------------------------------------------------------------


def test_every_raised_failure_has_exactly_the_facts_of_its_text() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{call.lineno}: {row.__name__} wants {sorted(facts_of(row))}, told {sorted(reported)}"
        for file in sources()
        for call, row in failures_made(ast.parse(file.read_text()))
        if (reported := announced_facts(call)) is not None and reported != facts_of(row)
    ]

    assert wrong == []


def test_the_check_finds_a_missing_fact_an_extra_fact_and_a_qualified_name() -> None:
    code = "BadId(text=1)\nfailures.BadId(text=1, kind=2, example=3, colour=4)\nBadId(**facts)\nBadId(1)\nprint(text=1)"

    reported = [(call.lineno, announced_facts(call)) for call, _ in failures_made(ast.parse(code))]

    assert reported == [(1, {"text"}), (2, {"text", "kind", "example", "colour"}), (3, None), (4, {"(positional)"})]


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


def announced_facts(call: ast.Call) -> set[str] | None:
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
