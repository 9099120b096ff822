"""Prints `docs/failures.md` from the table of failures: `python docs/print_failures.py > docs/failures.md`."""

from __future__ import annotations

import re
import sys

from aima_core.errors import AimaError, table

HEAD = """# Failures

Every failure has a code for programs, an HTTP status, an exit code, a sentence and a hint. Words in ‹› are filled in.

| code | HTTP | exit | what happened | what to do |
|---|---|---|---|---|
"""


def page() -> str:
    return HEAD + "".join(map(_row, table()))


def _row(failure: type[AimaError]) -> str:
    cells = (f"`{failure.code}`", failure.status, failure.exit_code, _text(failure.sentence), _text(failure.hint))
    return f"| {' | '.join(map(str, cells))} |\n"


def _text(template: str) -> str:
    return re.sub(r"\{(\w+)[^}]*\}", r"‹\1›", template).replace("\n", " ").replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
