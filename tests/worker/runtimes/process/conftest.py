"""A native runtime on a temporary directory; the test fails if a process of its engines remains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from lab.parts import eventually, free_port

from aima_worker.runtime import ContainerRuntime, ContainerSpec
from aima_worker.runtimes.process.process_table import Process, family
from aima_worker.runtimes.process.run_record import RunRecord
from aima_worker.runtimes.process.runtime import ProcessRuntime

NAME = "aima-test"


def shell(script: str, **changes: object) -> ContainerSpec:
    """A spec that runs `script` in a shell."""
    fields: dict[str, object] = {
        "name": NAME,
        "image": "",
        "command": ("sh", "-c", script),
        "host_address": "127.0.0.1",
        "host_port": free_port(),
        "container_port": 8000,
    }
    return ContainerSpec.model_validate(fields | changes)


def said(runtime: ContainerRuntime, name: str = NAME) -> list[str]:
    with runtime.logs(name, follow=False) as log:
        return [line.text for line in log]


def record_of(root: Path, name: str = NAME) -> RunRecord:
    record = RunRecord.of(root / name)
    assert record is not None
    return record


def ended(runtime: ContainerRuntime, name: str = NAME) -> int | None:
    """The exit code; None while it runs."""
    found = runtime.find(name)
    return found.exit_code if found else None


def pid_of(process: Process | None) -> int:
    assert process is not None
    return process.pid


def processes_of(record: RunRecord) -> list[Process]:
    """Every living process of that run, daemons too."""
    return family(None, record.id)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "processes"


@pytest.fixture
def runtime(root: Path) -> Iterator[ProcessRuntime]:
    runtime = ProcessRuntime(root, host="host-01")
    yield runtime
    records = [record for directory in sorted(root.glob("*")) if (record := RunRecord.of(directory))]
    for record in records:
        record.kill()
    assert eventually(lambda: not _supervisors(runtime))


def _supervisors(runtime: ProcessRuntime) -> list[psutil.Process]:
    """Those that run, and children of this process that are not reaped."""
    runtime.containers({})  # reaps
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if child.status() == psutil.STATUS_ZOMBIE or "process_supervisor" in " ".join(child.cmdline()):
                found.append(child)
    return found
