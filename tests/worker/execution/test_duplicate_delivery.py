"""Duplicate delivery of a message: recognized with one read of Redis, and skipped."""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median

import pytest
from lab.commands import a_start_of
from structlog.testing import capture_logs

from aima_core.domain.operations import Phase
from aima_worker.execution.executor import execute
from aima_worker.runtimes.fake.engine import Behaviour

pytestmark = pytest.mark.redis


def test_a_duplicate_message_of_a_start_does_nothing(desk):
    outcome = desk.run_command(a_start_of())

    again = desk.finish(outcome.operation.id)

    assert again.events == outcome.events


class Untouched:
    """A runtime that fails the test at any call."""

    def __getattr__(self, name: str) -> None:
        raise AssertionError(f"it was asked for {name}")


@pytest.mark.parametrize("under_way", [True, False], ids=["under way", "ended"])
def test_a_duplicate_message_is_skipped_in_fifty_milliseconds_without_a_runtime_call(desk, runtime, under_way):
    runtime.next_runs(Behaviour(answers=not under_way))
    id, end = desk.begin(a_start_of())
    desk.until_phase(id, Phase.LOADING if under_way else Phase.READY)
    if not under_way:
        end.result(10)  # race: it logs its end after its last phase
    took = []

    for _ in range(9):
        began = time.monotonic()
        with capture_logs() as said:
            execute(replace(desk.host, runtime=Untouched()), id)
        took.append(time.monotonic() - began)
        assert [(each["event"], each["operation"]) for each in said] == [("operation skipped", id)]

    assert median(took) < 0.05
    assert end.done() is not under_way
    assert desk.host.operations.get(id).attempt == 1
