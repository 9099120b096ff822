"""What the bench makes of the seconds it is given."""

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
def test_what_was_measured_decides_whether_a_goal_is_met(goal: Goal, ours: float, theirs: float, met: bool) -> None:
    comparison = Comparison("start", ours=[ours], theirs=[theirs], goal=goal)

    row = as_table([comparison]).splitlines()[-1]

    assert comparison.met is met
    assert row.endswith("not met") is not met


@pytest.mark.parametrize(("goal", "figure"), [(RATIO, 0.9), (ADDED, -0.1)])
def test_rounds_are_compared_each_with_itself_since_the_machine_drifts(goal: Goal, figure: float) -> None:
    slower_and_slower = [1.0, 2.0, 3.0]

    comparison = Comparison("start", ours=[0.9, 3.0, 2.7], theirs=slower_and_slower, goal=goal)

    assert comparison.figure == pytest.approx(figure)


def test_contenders_take_turns_after_a_round_that_does_not_count() -> None:
    locks: list[str] = []

    def turn(name: str) -> float:
        locks.append(name)
        return float(len(locks))

    seconds = take_turns(2, {"a": lambda: turn("a"), "b": lambda: turn("b")})

    assert locks == ["a", "b", "a", "b", "b", "a"]
    assert seconds == {"a": [3.0, 6.0], "b": [4.0, 5.0]}


def test_programs_get_every_round_beside_the_result() -> None:
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
def test_what_has_no_rival_is_held_to_a_bound_of_its_own(figures: list[float], verdict: str) -> None:
    row = as_table([Bounded("a core of Redis", figures, "%", most=10)]).splitlines()[-1]

    assert row.split("  ")[0] == "a core of Redis"
    assert row.endswith(verdict)


def test_what_is_only_told_is_no_verdict() -> None:
    row = as_table([Bounded("commands", [3.0], "/s")]).splitlines()[-1]

    assert row.endswith("3 /s")
