"""`aima --help` against a Python that does nothing: what the command line costs before it does anything."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from bench.comparison import Comparison, RatioAtMost, take_turns

ROUNDS = 31
NEEDS = ()


def measure(rounds: int) -> list[Comparison]:
    aima = Path(sys.executable).with_name("aima")
    seconds = take_turns(
        rounds,
        {
            "aima --help": lambda: _run([str(aima), "--help"]),
            "python -c pass": lambda: _run([sys.executable, "-c", "pass"]),
        },
    )
    ours, theirs = seconds.values()
    return [Comparison("aima --help, against python -c pass", ours, theirs, RatioAtMost(5))]


def _run(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began
