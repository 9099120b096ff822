"""Texts about hosts that `aima host` and `aima doctor` share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from aima_core.domain.units import format_size

CLOCK_TOLERANCE = timedelta(seconds=1)
"""A clock that differs from Redis' by more is reported."""


def describe_accelerators(accelerators: Sequence[Mapping[str, Any]]) -> list[str]:
    """Equal devices share a line, with their number: `2 × NVIDIA L4 (cuda, 24 GB, compute 8.9)`."""
    counts = Counter(map(_accelerator, accelerators))
    return [f"{count} × {described}" if count > 1 else described for described, count in counts.items()]


def _accelerator(device: Mapping[str, Any]) -> str:
    memory = [format_size(device["memory"])] if device["memory"] else []
    capability = [f"compute {device['compute_capability']}"] if device["compute_capability"] else []
    return f"{device['name']} ({', '.join([device['kind'], *memory, *capability])})"


def counted(number: int, thing: str) -> str:
    """`1 core`, `8 cores`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
