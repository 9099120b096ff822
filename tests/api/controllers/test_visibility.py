"""How long a node has seen without a break who is heard of."""

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


def looked(watch: VisibilityWindow, clock: Clock, *, times: int) -> timedelta:
    for _ in range(times):
        clock.now += EVERY.total_seconds()
        seen = watch.observe()
    return seen


def test_it_grows_with_each_look(clock):
    watch = VisibilityWindow(looks_every=EVERY, clock=clock)

    assert watch.observe() == timedelta()
    assert looked(watch, clock, times=12) == timedelta(minutes=1)


def test_it_begins_anew_once_redis_was_away(clock):
    watch = VisibilityWindow(looks_every=EVERY, clock=clock)
    looked(watch, clock, times=12)

    watch.lose_sight()

    assert looked(watch, clock, times=3) == 2 * EVERY


def test_it_begins_anew_once_the_node_stood_still(clock):
    watch = VisibilityWindow(looks_every=EVERY, clock=clock)
    looked(watch, clock, times=12)

    clock.now += 11

    assert watch.observe() == timedelta()
