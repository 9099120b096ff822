"""The mechanisms behind the faults and threats of `docs/`: how each is switched off, and the tests that then fail.

`switches.yaml` lists them by fault, `attacks.yaml` by threat. A switch is a few edits: in `file` the text `was`, which
occurs once, is replaced by another. Where one of two mechanisms suffices, the edits switch both off.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

FAULTS, ATTACKS = (Path(__file__).with_name(name) for name in ("switches.yaml", "attacks.yaml"))


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
    row: int | str
    """The fault's number, or the threat's name."""
    then: str
    """What happens without the mechanism."""
    edits: tuple[Edit, ...]
    fails: tuple[str, ...]
    """At least one of these tests fails."""

    def __str__(self) -> str:
        return f"{self.row}: {self.then}"


def switches() -> list[Switch]:
    return _read(FAULTS)


def attacks() -> list[Switch]:
    return _read(ATTACKS)


def _read(table: Path) -> list[Switch]:
    return [Switch.model_validate(entry) for entry in yaml.safe_load(table.read_text()) or ()]
