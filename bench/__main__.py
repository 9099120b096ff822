"""`python -m bench [NAME…] [--rounds N] [--json]`: runs benches and prints one table.

A bench sets up and removes its own parts, also on SIGTERM, and its processes die with it. One whose requirements this
machine lacks is skipped with the reason.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from types import ModuleType

try:
    import structlog
    from lab.available import why_not

    from bench import (
        apply,
        command_line,
        events,
        gateway,
        hosts,
        listing,
        models,
        plan,
        ports,
        pull,
        recovery,
        sharing,
        start,
        submit,
    )
    from bench.comparison import Result
    from bench.report import as_json, as_table
except ModuleNotFoundError as missing:
    sys.exit(
        f"error: The benches require the package {missing.name}.\nhint: Install it with `./deploy/install --tests`."
    )

ENDED_BY_SIGTERM = 128 + signal.SIGTERM

BENCHES: dict[str, ModuleType] = {
    "start": start,
    "pull": pull,
    "submit": submit,
    "apply": apply,
    "plan": plan,
    "list": listing,
    "ports": ports,
    "events": events,
    "recovery": recovery,
    "hosts": hosts,
    "gateway": gateway,
    "sharing": sharing,
    "models": models,
    "cli": command_line,
}


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ENDED_BY_SIGTERM))
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for results
    results: list[Result] = []
    for name in options.name or BENCHES:
        bench = BENCHES[name]
        if reasons := [reason for part in bench.NEEDS if (reason := why_not(part))]:
            print(f"{name} is left out: {reasons[0]}", file=sys.stderr)
            continue
        print(f"{name}: the load is {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", file=sys.stderr)
        results += bench.measure(options.rounds or bench.ROUNDS)
    print(as_json(results) if options.json else as_table(results))
    return 0 if results else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHES)}; all without one")
    parser.add_argument("--rounds", type=int, metavar="N", help="how many, instead of each bench's own number")
    parser.add_argument("--json", action="store_true", help="every round's seconds too, for programs")
    options = parser.parse_args()
    if unknown := [name for name in options.name if name not in BENCHES]:
        parser.error(f"there is no bench {unknown[0]}; there are {', '.join(BENCHES)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds wants at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
