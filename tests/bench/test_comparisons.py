"""The statistics of a comparison, and its verdict."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from bench.comparison import AddedAtMost, Bounded, Comparison, Goal, RatioAtMost, take_turns
from bench.report import as_json, as_table

RATIO = RatioAtMost(0.95)
ADDED = AddedAtMost(timedelta(milliseconds=15))


@pytest.mark.parametrize(
    ("goal", "ours", "theirs", "met"),
    [
        (RATIO, 0.95, 1.0, True),
        (RATIO, 0.96, 1.0, False),
        (ADDED, 0.114, 0.1, True),
        (ADDED, 0.116, 0.1, False),
    ],
)
def test_the_measurements_determine_whether_a_goal_is_met(goal: Goal, ours: float, theirs: float, met: bool) -> None:
    comparison = Comparison("start", ours=[ours], theirs=[theirs], goal=goal)

    row = as_table([comparison]).splitlines()[-1]

    assert comparison.met is met
    assert row.endswith("not met") is not met


@pytest.mark.parametrize(("goal", "figure"), [(RATIO, 0.9), (ADDED, -0.1)])
def test_each_round_is_compared_with_itself_because_the_machine_drifts(goal: Goal, figure: float) -> None:
    slower_and_slower = [1.0, 2.0, 3.0]

    comparison = Comparison("start", ours=[0.9, 3.0, 2.7], theirs=slower_and_slower, goal=goal)

    assert comparison.figure == pytest.approx(figure)


def test_contenders_alternate_after_a_warm_up_round() -> None:
    locks: list[str] = []

    def turn(name: str) -> float:
        locks.append(name)
        return float(len(locks))

    seconds = take_turns(2, {"a": lambda: turn("a"), "b": lambda: turn("b")})

    assert locks == ["a", "b", "a", "b", "b", "a"]
    assert seconds == {"a": [3.0, 6.0], "b": [4.0, 5.0]}


def test_json_output_contains_every_round_beside_the_result() -> None:
    faster = Comparison("start", ours=[0.2, 0.3], theirs=[0.4, 0.3], goal=RATIO)
    slower = Comparison("start", ours=[0.4, 0.3], theirs=[0.2, 0.3], goal=RATIO)

    records = json.loads(as_json([faster, slower]))

    assert [(record["ours"], record["theirs"]) for record in records] == [
        ([0.2, 0.3], [0.4, 0.3]),
        ([0.4, 0.3], [0.2, 0.3]),
    ]
    assert [(record["ratio"], record["goal"], record["met"]) for record in records] == [
        (0.75, "≤ 0.95", True),
        (1.5, "≤ 0.95", False),
    ]


@pytest.mark.parametrize(
    ("figures", "verdict"), [([9.0, 10.0, 30.0], "10 %  ≤ 10 %  met"), ([11.0], "11 %  ≤ 10 %  not met")]
)
def test_a_contender_without_a_rival_has_an_absolute_bound(figures: list[float], verdict: str) -> None:
    row = as_table([Bounded("a core of Redis", figures, "%", most=10)]).splitlines()[-1]

    assert row.split("  ")[0] == "a core of Redis"
    assert row.endswith(verdict)


def test_an_informational_measurement_gives_no_verdict() -> None:
    row = as_table([Bounded("commands", [3.0], "/s")]).splitlines()[-1]

    assert row.endswith("3 /s")
