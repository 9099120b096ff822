"""Runs one seed of chaos, from `tests/`: `python -m chaos --seed 7 --operations 1000 [--stage lab]`.

Prints each step and the report; exits with 1 if an invariant is violated. `--keep DIRECTORY` keeps the logs of all
parts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chaos import fleet_stage, lab_stage
from chaos.run import played, written_to
from chaos.stage import Stage


def main() -> int:
    reported = argparse.ArgumentParser(prog="python -m chaos")
    reported.add_argument("--seed", type=int, default=1)
    reported.add_argument("--operations", type=int, default=150)
    reported.add_argument("--stage", choices=["fleet", "lab"], default="fleet")
    reported.add_argument("--keep", type=Path)
    asked = reported.parse_args()
    directory = asked.keep or Path(tempfile.mkdtemp(prefix="chaos-"))
    directory.mkdir(parents=True, exist_ok=True)
    with _stage(asked.stage, directory) as (stage, installation):
        report = played(
            stage,
            seed=asked.seed,
            operations=asked.operations,
            installation=installation,
            say=lambda line: sys.stdout.write(f"{line}\n"),
        )
    sys.stdout.write(f"{report}\n{written_to(report, directory)}\n")
    return 1 if report.offences else 0


@contextmanager
def _stage(which: str, directory: Path) -> Iterator[tuple[Stage, str]]:
    if which == "lab":
        with lab_stage.lab_stage(directory) as hosts:
            yield hosts, lab_stage.INSTALLATION
        return
    with fleet_stage.sure_redis(directory) as server, fleet_stage.fleet_stage(server, directory) as fakes:
        yield fakes, fleet_stage.INSTALLATION


if __name__ == "__main__":
    sys.exit(main())
