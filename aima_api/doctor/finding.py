"""One thing that `aima doctor` found, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CheckStatus(StrEnum):
    OK = "good"
    WARNING = "mind"
    """It runs without, and less well."""
    FAILED = "lacks"


@dataclass(frozen=True)
class Finding:
    about: str
    verdict: CheckStatus
    message: str
    fix: str | None = None
