"""Engines survive a crash of the worker, and the next worker adopts them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from lab.parts import eventually
from worker.runtimes.process.conftest import NAME, ended, pid_of, processes_of, record_of, said, shell

from aima_worker.runtime import ContainerSpec, Status
from aima_worker.runtimes.process.runtime import ProcessRuntime

_WORKER = """
import sys, time
from pathlib import Path
from aima_worker.runtime import ContainerSpec
from aima_worker.runtimes.process.runtime import ProcessRuntime

ProcessRuntime(Path(sys.argv[1]), host="host-01").run(ContainerSpec.model_validate_json(sys.argv[2]))
print("ran", flush=True)
time.sleep(1000)
"""
Killed = Callable[[ContainerSpec], None]
COUNTS = "echo pid $$; i=0; while :; do i=$((i+1)); echo count $i; sleep 0.05; done"


@pytest.fixture
def killed_worker(root: Path) -> Callable[[ContainerSpec], None]:
    """Has another worker run a spec, and kills that worker with SIGKILL."""

    def run(spec: ContainerSpec) -> None:
        worker = subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(root), spec.model_dump_json()], stdout=subprocess.PIPE, text=True
        )
        assert worker.stdout is not None
        with worker, worker.stdout:
            assert worker.stdout.readline() == "ran\n"
            worker.kill()

    return run


def test_an_engine_survives_its_worker_and_is_adopted(
    runtime: ProcessRuntime, root: Path, killed_worker: Killed
) -> None:
    spec = shell(COUNTS)
    killed_worker(spec)
    pid = pid_of(record_of(root).engine)
    assert eventually(lambda: said(runtime))
    before = len(said(runtime))

    adopted = runtime.run(spec)

    assert adopted.status is Status.RUNNING
    assert runtime.find(NAME) == adopted
    assert said(runtime)[0] == f"pid {pid}"
    assert eventually(lambda: len(said(runtime)) > before + 3)


def test_the_exit_code_of_an_engine_is_known_after_a_restart_of_the_worker(
    runtime: ProcessRuntime, tmp_path: Path, killed_worker: Killed
) -> None:
    go = tmp_path / "go"
    killed_worker(shell(f"while ! [ -e {go} ]; do sleep 0.05; done; echo bye; exit 7"))

    go.touch()

    assert eventually(lambda: ended(runtime) == 7)
    assert said(runtime) == ["bye"]


def test_an_adopted_engine_can_be_removed(runtime: ProcessRuntime, root: Path, killed_worker: Killed) -> None:
    killed_worker(shell(COUNTS))
    record = record_of(root)

    runtime.remove(NAME, grace=timedelta(seconds=5))

    assert runtime.find(NAME) is None
    assert processes_of(record) == []
    assert not (root / NAME).exists()


def test_an_engine_whose_supervisor_was_killed_is_ended_with_all_its_processes(
    runtime: ProcessRuntime, root: Path
) -> None:
    runtime.run(shell("sleep 1000 & echo pid $!; exec sleep 1000"))
    record = record_of(root)
    assert eventually(lambda: len(processes_of(record)) == 2)

    psutil.Process(pid_of(record.supervisor)).kill()

    assert eventually(lambda: ended(runtime) == 137)
    assert processes_of(record) == []
