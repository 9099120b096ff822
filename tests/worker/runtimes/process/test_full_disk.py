"""On a full disk engines run on, their exits are recorded, their logs lose lines only, and removals need no room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from lab.parts import eventually, missing
from worker.runtimes.process.conftest import NAME, ended, said, shell

from aima_core.errors import EngineRefused
from aima_worker.runtimes.process.files import FREE_SPACE_SHARE, LogWriter, older
from aima_worker.runtimes.process.runtime import ProcessRuntime

SIZE = 16 << 20
CHUNK = 1 << 16


@contextmanager
def small_disk(directory: Path, size: int = SIZE) -> Iterator[Path]:
    if os.geteuid() != 0:
        missing("only root mounts a small disk")
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "small-disk", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(directory: Path) -> Path:
    """To the last byte."""
    filler = directory / "filler"
    with filler.open("ab", buffering=0) as file:
        for length in (CHUNK, 1):
            with suppress(OSError):
                while file.write(b"x" * length):
                    continue
    assert os.statvfs(directory).f_bavail == 0
    return filler


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def runtime(disk: Path) -> Iterator[ProcessRuntime]:
    runtime = ProcessRuntime(disk / "processes", host="host-01")
    yield runtime
    for container in runtime.containers({}):
        runtime.remove(container.name, grace=timedelta())


def test_an_exit_on_a_full_disk_is_recorded_and_the_engine_is_removed(
    runtime: ProcessRuntime, disk: Path, tmp_path: Path
) -> None:
    may_exit = tmp_path / "may-exit"
    runtime.run(shell(f"echo before; until [ -e {may_exit} ]; do sleep 0.02; done; seq 1 9999; exit 5"))
    assert eventually(lambda: said(runtime) == ["before"])
    fill(disk)

    may_exit.touch()

    assert eventually(lambda: ended(runtime) == 5)
    assert said(runtime)[0] == "before"
    assert [container.name for container in runtime.containers({})] == [NAME]
    with pytest.raises(EngineRefused, match="No space left on device"):
        runtime.run(shell("exec sleep 1000", name="aima-another"))
    runtime.remove(NAME, grace=timedelta())
    assert runtime.containers({}) == []
    assert [each.name for each in (disk / "processes").iterdir()] == []


def test_lines_dropped_on_a_full_disk_are_counted_and_no_other_is_cut(runtime: ProcessRuntime, disk: Path) -> None:
    log = disk / "log"
    writer = LogWriter(log)
    writer.write("stdout", ["first"])
    filler = fill(disk)

    for number in range(5):
        writer.write("stdout", [f"{number} " + "x" * (8 << 10)])
    filler.unlink()
    writer.write("stderr", ["last"])
    writer.close()

    texts = [line.split(" ", 2)[2] for line in log.read_text().splitlines()]
    assert texts == ["first", "[5 lines dropped: no space was left on the disk of the log]", "last"]


def test_a_flood_of_lines_leaves_most_of_a_small_disk_free(disk: Path) -> None:
    log = disk / "log"
    writer = LogWriter(log)

    for number in range(3000):
        writer.write("stdout", [f"{number} " + "x" * (8 << 10)])
    writer.close()

    assert log.stat().st_size + older(log).stat().st_size <= 2 * SIZE // FREE_SPACE_SHARE
    assert b" 2999 x" in log.read_bytes()
