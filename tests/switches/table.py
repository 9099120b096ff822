"""The mechanisms behind the bounds of `docs/faults.md`: how each is switched off, and the tests that then fail.

`switches.yaml` lists them by fault. A switch is a few edits: in `file` the text `was`, which occurs once, is replaced
by another. Where one of two mechanisms suffices, the edits switch both off.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

TABLE = Path(__file__).with_name("switches.yaml")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Edit(_Strict):
    """One change of one file."""

    file: str
    """From the project's root."""
    was: str
    """Occurs in the file once."""
    becomes: str = ""


class Switch(_Strict):
    row: int
    """The fault's number."""
    then: str
    """What happens without the mechanism."""
    edits: tuple[Edit, ...]
    fails: tuple[str, ...]
    """At least one of these tests fails."""

    def __str__(self) -> str:
        return f"{self.row}: {self.then}"


def switches() -> list[Switch]:
    return [Switch.model_validate(entry) for entry in yaml.safe_load(TABLE.read_text())]
