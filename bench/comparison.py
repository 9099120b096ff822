"""Comparisons: contenders alternate within one run, and a goal gives the verdict. Results are printed, not stored.

A machine's speed drifts by half from run to run; the ratio of two contenders within one round does
not. So each round gives one figure, its ratio or difference, and the median of these figures counts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from statistics import median
from typing import Protocol

Turn = Callable[[], float]
"""Runs once and returns the measured seconds, without setup and cleanup."""


class Goal(Protocol):
    def figure(self, ours: float, theirs: float) -> float:
        """The figure of one round."""
        ...

    def met_by(self, figure: float) -> bool: ...

    def reported(self, figure: float) -> str:
        """A figure with the goal's unit."""
        ...

    def __str__(self) -> str: ...


SMALL = "BENCH_SMALL"
"""The environment variable that makes a bench a tenth of its size, to test the bench; its figures say nothing."""


def size(full: int) -> int:
    return full // 10 if os.environ.get(SMALL) else full


def span(full: float) -> float:
    """Seconds of a measurement, likewise a tenth."""
    return full / 10 if os.environ.get(SMALL) else full


@dataclass(frozen=True)
class RatioAtMost:
    most: float

    def figure(self, ours: float, theirs: float) -> float:
        return ours / theirs

    def met_by(self, figure: float) -> bool:
        return figure <= self.most

    def reported(self, figure: float) -> str:
        return f"{figure:.3f}"

    def __str__(self) -> str:
        return f"≤ {self.most:g}"


@dataclass(frozen=True)
class RateAtLeast:
    """The number of ours in the time of one of theirs."""

    least: float

    def figure(self, ours: float, theirs: float) -> float:
        return theirs / ours

    def met_by(self, figure: float) -> bool:
        return figure >= self.least

    def reported(self, figure: float) -> str:
        return f"{figure:.3f} x"

    def __str__(self) -> str:
        return f"≥ {self.least:g} x"


@dataclass(frozen=True)
class AddedAtMost:
    most: timedelta

    def figure(self, ours: float, theirs: float) -> float:
        return ours - theirs

    def met_by(self, figure: float) -> bool:
        return figure <= self.most.total_seconds()

    def reported(self, figure: float) -> str:
        return f"{figure * 1000:+.2f} ms"

    def __str__(self) -> str:
        return f"≤ {self.most.total_seconds() * 1000:+g} ms"


@dataclass(frozen=True)
class Comparison:
    what: str
    ours: Sequence[float]
    """Seconds, one for each round."""
    theirs: Sequence[float]
    goal: Goal

    @property
    def figure(self) -> float:
        return median(self.goal.figure(ours, theirs) for ours, theirs in zip(self.ours, self.theirs, strict=True))

    @property
    def ratio(self) -> float:
        return median(ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True))

    @property
    def met(self) -> bool:
        return self.goal.met_by(self.figure)


@dataclass(frozen=True)
class Bounded:
    """A measurement without a rival: it has an absolute bound, or is informational."""

    what: str
    ours: Sequence[float]
    """One for each round."""
    unit: str
    most: float | None = None

    @property
    def figure(self) -> float:
        return median(self.ours)

    @property
    def met(self) -> bool:
        return self.most is None or self.figure <= self.most

    @property
    def goal(self) -> str:
        return "" if self.most is None else f"≤ {self.reported(self.most)}"

    def reported(self, figure: float) -> str:
        return f"{figure:.4g} {self.unit}"


Result = Comparison | Bounded


def take_turns(rounds: int, contenders: Mapping[str, Turn]) -> dict[str, list[float]]:
    """Seconds of each contender, round by round, after an uncounted warm-up round.

    Every other round is reversed, so that no contender always follows the same one.
    """
    print(f"{rounds} rounds of {', '.join(contenders)}", file=sys.stderr, flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in contenders.values():
        turn()
    for number in range(rounds):
        for name in list(contenders)[:: 1 if number % 2 == 0 else -1]:
            seconds[name].append(contenders[name]())
    return seconds
