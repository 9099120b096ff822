"""The failure modes of the test engine, in a container and natively."""

from __future__ import annotations

import subprocess
import time
from datetime import timedelta

import pytest
from engines.conftest import READY_WITHIN, Running, Starter
from lab.parts import eventually

from aima_worker.runtime import Status

GRACE = timedelta(seconds=30)
ENDS_WITHIN = timedelta(seconds=60)
UNHEALTHY = "unhealthy from now on"


def ended(running: Running) -> bool:
    found = running.runtime.find(running.name)
    return found is not None and found.status is Status.EXITED


def test_by_default_it_is_healthy_at_once(start: Starter) -> None:
    assert start("dial-cpu").is_healthy()


def test_it_loads_for_the_configured_time(start: Starter) -> None:
    began = time.monotonic()

    start("dial-cpu", load_seconds=1)

    assert time.monotonic() - began >= 1


def test_it_crashes_with_its_last_log_lines_and_exit_code(start: Starter) -> None:
    dial = start("dial-cpu", wait=False, crash_after=0.2, exit_code=42, last_words="CUDA out of memory")

    assert eventually(lambda: ended(dial), within=ENDS_WITHIN)

    found = dial.runtime.find(dial.name)
    assert found is not None and found.exit_code == 42
    assert dial.lines()[-1] == "CUDA out of memory"


def test_it_turns_unhealthy(start: Starter) -> None:
    dial = seen_healthy(start)

    assert eventually(lambda: not dial.is_healthy(), within=ENDS_WITHIN)
    assert not ended(dial)


def seen_healthy(start: Starter) -> Running:
    """One that turns unhealthy soon, and not before its first check: the busier the machine, the later that is."""
    for seconds in (0.5, 5, 20):
        dial = start("dial-cpu", wait=False, unhealthy_after=seconds)
        checks: list[bool] = []

        def has_become_ready(dial: Running = dial, checks: list[bool] = checks) -> bool:
            checks.append(dial.is_healthy())
            return checks[-1] or UNHEALTHY in dial.lines()

        assert eventually(has_become_ready, within=READY_WITHIN), dial.lines()
        if checks[-1]:
            return dial
    raise AssertionError("it was unhealthy at its first check each time")


def test_it_floods_its_log(start: Starter) -> None:
    dial = start("dial-cpu", flood=500)

    assert eventually(lambda: len(dial.lines()) > 500, within=ENDS_WITHIN)


def test_it_is_killed_for_its_memory_use(start: Starter) -> None:
    dial = start("dial-cpu", wait=False, memory=200)

    assert eventually(lambda: ended(dial), within=ENDS_WITHIN)

    found = dial.runtime.find(dial.name)
    assert found is not None and (found.exit_code, found.oom_killed) == (137, True)


def test_on_sigterm_it_exits_at_once(start: Starter) -> None:
    dial = start("dial-cpu")
    began = time.monotonic()

    dial.runtime.remove(dial.name, grace=GRACE)

    assert time.monotonic() - began < GRACE.total_seconds()


def test_configured_to_ignore_sigterm_it_must_be_killed(start: Starter) -> None:
    dial = start("dial-cpu", ignore_sigterm=True)
    began = time.monotonic()

    dial.runtime.remove(dial.name, grace=timedelta(seconds=1))

    assert time.monotonic() - began >= 1


@pytest.mark.parametrize("wrong", ["load-second", "--"])
def test_an_unknown_argument_is_reported(start: Starter, wrong: str) -> None:
    dial = start("dial-cpu", wait=False, **{wrong: 1})

    assert eventually(lambda: ended(dial), within=ENDS_WITHIN)

    assert "unknown argument" in dial.lines()[-1]


@pytest.mark.docker
def test_its_file_system_is_read_only_in_docker(in_docker: Starter) -> None:
    dial = in_docker("dial-cpu")

    write = ["docker", "exec", dial.name, "sh", "-c", "echo x > /bin/aima-dial || echo x > /new || echo x > /tmp/new"]
    said = subprocess.run(write, capture_output=True, text=True)

    assert (said.returncode, said.stderr.count("Read-only file system")) == (0, 2)
