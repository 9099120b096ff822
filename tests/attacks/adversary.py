"""An adversary: acts at random, reproducibly by its seed, until its time is over. What it did is written to a log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

from attacks.stage import AttackStage

Act = Callable[[], str]
"""One action; returns what happened, for the log."""


class Adversary:
    """Base of the three. Subclasses return their actions with weights."""

    name: str
    passes: float
    """The least share of its tries that has to pass the first check."""

    def __init__(self, stage: AttackStage, seed: int) -> None:
        self.stage = stage
        self.random = Random(seed)
        self.log: list[str] = []
        self.outcomes: Counter[str] = Counter()

    def actions(self) -> Sequence[tuple[int, Act]]:
        raise NotImplementedError

    def withdraw(self) -> None:
        """After its time: closes what it holds open."""

    def accepted(self) -> tuple[int, int]:
        """How many of how many tries passed the first check; the others cannot find what lies behind it."""
        raise NotImplementedError

    def attack(self, duration: timedelta) -> None:
        begun = time.monotonic()
        weights, acts = zip(*self.actions(), strict=True)
        while (elapsed := time.monotonic() - begun) < duration.total_seconds():
            [act] = self.random.choices(acts, weights)
            try:
                outcome = act()
            except Exception as failed:  # noqa: BLE001 an adversary does not mind
                outcome = f"raised {type(failed).__name__}: {failed}"[:200]
            self.outcomes[act.__name__] += 1
            self.log.append(f"{elapsed:8.3f} {act.__name__}: {outcome}")

    def pick(self, sequence: Sequence[Any]) -> Any:
        return self.random.choice(sequence)


def played(*adversaries: Adversary, duration: timedelta, seed: int) -> list[str]:
    """The violations, of attacks at once while the owner works, and of the time after them. Writes the logs."""
    stage = adversaries[0].stage
    try:
        with stage.owner_at_work(seed):
            with ThreadPoolExecutor(len(adversaries), thread_name_prefix="adversary") as threads:
                list(threads.map(lambda each: each.attack(duration), adversaries))
            found = stage.violations_of_memory() + [problem for each in adversaries for problem in _blunt(each)]
            for each in adversaries:
                each.withdraw()
        return [*found, *stage.violations(), *stage.denials(), *stage.violations()]
    finally:
        for each in adversaries:
            written_to(each, stage.directory, seed)


def _blunt(adversary: Adversary) -> list[str]:
    accepted, tried = adversary.accepted()
    adversary.log.append(f"{accepted} of {tried} tries passed the first check")
    if accepted >= adversary.passes * tried > 0:
        return []
    return [f"{accepted} of {tried} tries passed the first check, less than {adversary.passes:.0%}: it attacks nothing"]


def written_to(adversary: Adversary, directory: Path, seed: int) -> Path:
    file = directory / f"adversary-{adversary.name}-{seed}.log"
    file.write_text("\n".join([*adversary.log, str(dict(adversary.outcomes)), ""]))
    return file
