"""Chaos: after any sequence of requests and faults the system converges, nothing lost and nothing duplicated.

A seed decides every step and its order; a failure prints them. With `--long`, ten seeds of each stage: over 10,000
operations on fakes, and 1,000 on real Docker Engines; by hand, any seed, from `tests/`:
`python -m chaos --seed 7 --operations 1000 [--stage lab]`.
"""

from __future__ import annotations

import pytest
from chaos import fleet_stage, lab_stage
from chaos.plan import Fault, Shape, plan
from chaos.run import played
from chaos.stage import Stage

SEEDS = range(1, 11)
LONG = [pytest.mark.long, pytest.mark.timeout(1800)]


def check(stage: Stage, *, seed: int, operations: int, installation: str) -> None:
    report = played(stage, seed=seed, operations=operations, installation=installation)

    assert not report.offences, "\n".join([*report.log, str(report), f"logs: {stage.logs()}"])


@pytest.mark.redis
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("seed", "operations"),
    [pytest.param(6, 100, id="short"), *(pytest.param(seed, 1100, id=f"seed {seed}", marks=LONG) for seed in SEEDS)],
)
def test_a_fleet_of_fakes_converges_after_any_faults(fleet, seed, operations):
    check(fleet, seed=seed, operations=operations, installation=fleet_stage.INSTALLATION)


@pytest.mark.redis
@pytest.mark.docker
@pytest.mark.registry
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("seed", "operations"),
    [pytest.param(1, 30, id="short"), *(pytest.param(seed, 120, id=f"seed {seed}", marks=LONG) for seed in SEEDS)],
)
def test_hosts_with_real_engines_converge_after_any_faults(lab, seed, operations):
    check(lab, seed=seed, operations=operations, installation=lab_stage.INSTALLATION)


def test_a_seed_determines_every_step():
    shape = Shape(
        hosts=("alpha", "beta"),
        prefix="svc-chaos",
        body={},
        image="other-{}:1",
        faults=(Fault("kill", ("alpha", "beta"), (1.0, 3.0)),),
        requests_per_second=5,
        seconds_between_faults=1,
    )

    first, again = (plan(7, shape, operations=50) for _ in range(2))

    assert first == again
    assert first != plan(8, shape, operations=50)
