"""The visibility window: for how long a node has observed heartbeats without interruption."""

from __future__ import annotations

from datetime import timedelta

import pytest

from aima_api.controllers.failure_detector import VisibilityWindow

EVERY = timedelta(seconds=5)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def looked(window: VisibilityWindow, clock: Clock, *, times: int) -> timedelta:
    for _ in range(times):
        clock.now += EVERY.total_seconds()
        seen = window.observe()
    return seen


def test_the_observed_time_grows_with_each_pass(clock):
    window = VisibilityWindow(interval=EVERY, clock=clock)

    assert window.observe() == timedelta()
    assert looked(window, clock, times=12) == timedelta(minutes=1)


def test_the_observed_time_restarts_after_a_redis_outage(clock):
    window = VisibilityWindow(interval=EVERY, clock=clock)
    looked(window, clock, times=12)

    window.reset()

    assert looked(window, clock, times=3) == 2 * EVERY


def test_the_observed_time_restarts_after_the_node_was_suspended(clock):
    window = VisibilityWindow(interval=EVERY, clock=clock)
    looked(window, clock, times=12)

    clock.now += 11

    assert window.observe() == timedelta()
