"""The page of errors is printed from the table of errors."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_errors_is_up_to_date():
    printed = runpy.run_path(str(DOCS / "print_failures.py"))["page"]()

    assert (DOCS / "failures.md").read_text() == printed, "python docs/print_failures.py > docs/failures.md"
