"""A removal kills all processes of an engine, daemons too, and no others."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from lab.parts import eventually
from worker.runtimes.process.conftest import NAME, ended, processes_of, record_of, said, shell

from aima_worker.runtimes.process.files import RUNNING, read, write
from aima_worker.runtimes.process.process_table import Process
from aima_worker.runtimes.process.runtime import ProcessRuntime

GRACE = timedelta(seconds=1)


@pytest.fixture
def bystander() -> Iterator[Process]:
    """A process that does not belong to AIMA."""
    program = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield Process.of(program.pid)
    program.kill()
    program.wait()


def test_children_that_ignore_signals_or_left_the_session_are_ended_too(runtime: ProcessRuntime, root: Path) -> None:
    runtime.run(shell("(trap '' TERM; sleep 1000) & setsid sleep 1000 & echo up; wait"))
    record = record_of(root)
    assert eventually(lambda: len(processes_of(record)) == 3)

    runtime.remove(NAME, grace=GRACE)

    assert processes_of(record) == []


def test_children_do_not_outlive_an_engine_that_exits(runtime: ProcessRuntime, root: Path) -> None:
    runtime.run(shell("sleep 1000 & setsid sleep 1000 & sleep 0.2; exit 5"))

    assert eventually(lambda: ended(runtime) == 5)

    assert processes_of(record_of(root)) == []


def test_all_processes_of_an_engine_get_the_termination_signal(runtime: ProcessRuntime, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    child = f"trap 'touch {asked}; exit' TERM; echo up; while :; do sleep 0.05; done"
    # As in a container, the remaining processes are killed once the first one has exited.
    runtime.run(shell(f'trap : TERM; sh -c "{child}" & wait; wait'))
    assert eventually(lambda: said(runtime) == ["up"])

    runtime.remove(NAME, grace=timedelta(seconds=5))

    assert asked.exists()


def test_many_starts_and_stops_leave_nothing_behind(
    leaves_nothing_held: None, runtime: ProcessRuntime, root: Path, request: pytest.FixtureRequest
) -> None:
    for _ in range(50 if request.config.getoption("--long") else 5):
        runtime.run(shell("exec sleep 1000"))
        runtime.remove(NAME, grace=GRACE)

    assert list(root.iterdir()) == []
    assert [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE] == []


def test_a_process_that_reuses_the_pid_of_a_dead_engine_is_left_alone(
    runtime: ProcessRuntime, root: Path, bystander: Process
) -> None:
    runtime.run(shell("exit 0"))
    assert eventually(lambda: ended(runtime) == 0)
    (root / NAME / "exit.json").unlink()
    running = read(root / NAME / RUNNING)
    assert running is not None
    its_pid_before_it = Process(bystander.pid, bystander.started - 1)
    write(root / NAME / RUNNING, running | {"supervisor": its_pid_before_it, "engine": its_pid_before_it})

    assert ended(runtime) == 137
    runtime.remove(NAME, grace=GRACE)

    assert bystander.alive
