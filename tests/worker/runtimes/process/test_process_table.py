"""The table of processes is read while these start and exit."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from aima_worker.runtimes.process import process_table
from aima_worker.runtimes.process.process_table import Process, descendants


def started(pid: int) -> Process:
    row = process_table._row(pid)
    assert row is not None
    return Process(pid, row.started)


def test_children_are_found():
    with subprocess.Popen(["sleep", "60"]) as child:
        found = {each.pid for each in descendants(started(os.getpid()))}
        child.kill()

    assert child.pid in found


def test_a_process_that_exits_meanwhile_has_no_children(monkeypatch):
    leader = started(os.getpid())
    monkeypatch.setattr(Process, "alive", property(lambda _: True))
    monkeypatch.setattr(Path, "is_dir", lambda _: True)  # it exits right after it was looked up
    with subprocess.Popen(["true"]) as child:
        gone = Process(child.pid, leader.started)

    assert descendants(gone) == [gone]
