"""`docs/operating.md` documents every setting, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator

from documents.reading import ROOT
from pydantic import BaseModel

from aima_core.settings import Settings

WHOLE = {"host.facts"}
"""Sections documented as one setting."""


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        section = field.annotation
        if f"{prefix}{name}" not in WHOLE and isinstance(section, type) and issubclass(section, BaseModel):
            yield from settings(section, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_the_operating_page_documents_every_setting_and_no_other():
    page = (ROOT / "docs/operating.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `") and "`AIMA_" in line]
    documented = {setting for row in rows for setting in re.findall(r"`([a-z_.]+)`", row.split("|")[1])}

    assert documented == set(settings(Settings))
