"""One thing that `aima doctor` found, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    GOOD = "good"
    MIND = "mind"
    """It runs without, and less well."""
    LACKS = "lacks"


@dataclass(frozen=True)
class Finding:
    about: str
    verdict: Verdict
    said: str
    mend: str | None = None
