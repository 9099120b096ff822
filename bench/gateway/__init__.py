"""The gateway, against other proxies and a direct call: added time, CPU, memory, faults, and counted tokens.

All ways lead to the same engine, whose counts are compared with what clients got; clients send nothing twice.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.comparison import Result
from bench.gateway import costs, faults
from bench.gateway.clients import MODEL
from bench.gateway.costs import Way
from bench.gateway.rivals import RIVALS, bare_proxy
from bench.gateway.site import FAR_MODEL, running_site

ROUNDS = 5
NEEDS = ("redis",)
LEFT_OUT = "BENCH_WITHOUT"
"""An environment variable: names of rivals, separated by commas."""
_SHARES = {"LiteLLM": 0.1}


def measure(rounds: int) -> list[Result]:
    return [*_costs(rounds), *faults.measure()]


def _costs(rounds: int) -> list[Result]:
    with ExitStack() as stack:
        ours = stack.enter_context(running_site())
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="aima-bench-")))
        engine = ours.engines[0].url
        ways = {
            "direct": Way(engine, MODEL, "", None),
            "aima": Way(ours.url, MODEL, ours.key, ours.pid),
            "dataplane": Way(ours.url, FAR_MODEL, ours.key, ours.pid),
        }
        url, pid = stack.enter_context(bare_proxy(engine, directory))
        ways["bare proxy"] = Way(url, MODEL, "", pid)
        left_out = os.environ.get(LEFT_OUT, "").split(",")
        for name, rival in RIVALS.items():
            if name not in left_out:
                url, pid = stack.enter_context(rival.running(engine, ours.key, directory / name))
                ways[name] = Way(url, MODEL, ours.key, pid, share=_SHARES.get(name, 1.0))
        print(f"{rounds} rounds of {', '.join(ways)}", file=sys.stderr, flush=True)
        for number in range(rounds):
            for name in list(ways)[:: 1 if number % 2 == 0 else -1]:
                ways[name].measure()
        return [*costs.judged(ways), costs.memory_of_open_streams(ways["aima"])]
