"""Switches mechanisms off, from `tests/`: `python -m switches [--row N]… [--list]`.

Prints for each whether a test of its fault fails without it; exits with 1 if none does.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from switches.table import attacks, switches
from switches.without import copy_of_the_project, played_without


def main() -> int:
    reported = argparse.ArgumentParser(prog="python -m switches")
    reported.add_argument(
        "--row", action="append", help="only those of this fault or threat; may be given several times"
    )
    reported.add_argument("--list", action="store_true", help="name them and do nothing")
    asked = reported.parse_args()
    chosen = [each for each in (*switches(), *attacks()) if asked.row is None or str(each.row) in asked.row]
    if asked.list:
        sys.stdout.write("".join(f"{switch}\n" for switch in chosen))
        return 0
    unnoticed = 0
    with tempfile.TemporaryDirectory(prefix="aima-switches-") as directory:
        copy = copy_of_the_project(Path(directory))
        for switch in chosen:
            outcome = played_without(switch, copy)
            unnoticed += outcome.noticed_by is None
            sys.stdout.write(f"{'✗' if outcome.noticed_by is None else '✓'} {switch}: {outcome}\n")
            sys.stdout.flush()
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
