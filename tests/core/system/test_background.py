"""A background loop runs its pass on time and when woken, whatever the last pass raised, until it is stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from threading import Event

import pytest
from lab.parts import eventually

from aima_core.errors import BrokerUnavailable, DockerUnavailable
from aima_core.system.background import BackgroundLoop

NEVER = timedelta(hours=1)
SOON = timedelta(milliseconds=20)


class Passes:
    """Counts passes; the next ones raise the errors queued in `raises`."""

    def __init__(self, *raises: Exception) -> None:
        self.count = 0
        self.raises = list(raises)

    def __call__(self) -> None:
        self.count += 1
        if self.raises:
            raise self.raises.pop(0)

    def reach(self, count: int) -> bool:
        return eventually(lambda: self.count >= count)


@pytest.fixture
def started() -> Iterator[Callable[..., BackgroundLoop]]:
    loops: list[BackgroundLoop] = []

    def start(run: Callable[[], object], **options) -> BackgroundLoop:
        loop = BackgroundLoop("the test's", run, **{"interval": NEVER, **options})
        loops.append(loop)
        loop.start()
        return loop

    yield start
    for loop in loops:
        loop.stop(within=timedelta(seconds=10))


def test_the_first_pass_runs_at_once_and_the_next_after_the_interval(started):
    passes = Passes()

    started(passes, interval=SOON)

    assert passes.reach(3)


def test_the_first_pass_can_wait_for_the_interval(started):
    passes = Passes()

    loop = started(passes, immediately=False)
    time.sleep(0.05)
    before = passes.count
    loop.wake()

    assert before == 0
    assert passes.reach(1)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ZeroDivisionError(), id="unforeseen"),
        pytest.param(BrokerUnavailable(detail="frozen"), id="Redis unavailable"),
        pytest.param(DockerUnavailable(detail="stopped", host="alpha"), id="container engine unavailable"),
    ],
)
def test_a_failed_pass_does_not_end_the_loop(started, error):
    passes = Passes(error)

    started(passes, interval=NEVER, retry_delay=SOON)

    assert passes.reach(2)


def test_without_a_retry_delay_the_interval_follows_a_failure(started):
    passes = Passes(ZeroDivisionError())

    started(passes, interval=SOON)

    assert passes.reach(2)


def test_an_outage_is_reported_to_the_owner_and_another_failure_is_not(started):
    outage, reported = BrokerUnavailable(detail="frozen"), []
    passes = Passes(outage, ZeroDivisionError())

    started(passes, interval=SOON, on_outage=reported.append)

    assert passes.reach(3)
    assert reported == [outage]


def test_a_wake_during_a_pass_runs_another_pass(started):
    entered, leave = Event(), Event()
    passes = Passes()

    def run() -> None:
        passes()
        entered.set()
        leave.wait(10)

    loop = started(run)
    assert entered.wait(10)
    loop.wake()
    leave.set()

    assert passes.reach(2)


def test_an_external_event_wakes_the_loop(started):
    passes, freed = Passes(), Event()

    started(passes, woken=freed)
    assert passes.reach(1)
    freed.set()

    assert passes.reach(2)


def test_after_a_wake_the_loop_waits_for_the_settle_delay(started):
    passes = Passes()
    loop = started(passes, settle_delay=timedelta(milliseconds=100))
    assert passes.reach(1)

    begun = time.monotonic()
    loop.wake()
    assert passes.reach(2)

    assert time.monotonic() - begun >= 0.1


def test_the_interval_can_change_from_pass_to_pass(started):
    passes = Passes()

    started(passes, interval=lambda: SOON if passes.count < 3 else NEVER)

    assert passes.reach(3)
    time.sleep(0.1)
    assert passes.count == 3


def test_stop_waits_for_the_running_pass_up_to_its_timeout(started):
    entered, leave = Event(), Event()

    def run() -> None:
        entered.set()
        leave.wait(10)

    loop = started(run)
    assert entered.wait(10)

    begun = time.monotonic()
    loop.stop(within=timedelta(milliseconds=50))
    waited = time.monotonic() - begun
    leave.set()

    assert loop.stopped
    assert 0.05 <= waited < 5


def test_stop_interrupts_a_sleep_within_a_pass(started):
    entered = Event()

    def run() -> None:
        entered.set()
        loop.sleep(NEVER)

    loop = BackgroundLoop("sleeper", run, interval=NEVER)
    loop.start()
    assert entered.wait(10)

    begun = time.monotonic()
    loop.stop(within=timedelta(seconds=10))

    assert time.monotonic() - begun < 5


def test_a_pass_can_stop_its_own_loop(started):
    passes = Passes()

    def run() -> None:
        passes()
        loop.stop(within=NEVER)

    loop = BackgroundLoop("one pass", run, interval=SOON)
    loop.start()
    assert passes.reach(1)
    assert eventually(lambda: loop.stopped)
    time.sleep(0.1)

    assert passes.count == 1


def test_a_loop_that_was_never_started_can_be_stopped():
    loop = BackgroundLoop("idle", lambda: None, interval=NEVER)

    loop.stop(within=NEVER)

    assert (loop.started, loop.stopped) == (False, True)
