"""The kernel's table of processes: who is who, although pids are used again, and who belongs to which engine.

An engine's processes are those of its session, and those that carry its mark in their environment: a daemon leaves
its session, but hardly ever its environment. The standard library only, since supervisors start with it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

MARK = "AIMA_PROCESS"
"""The variable in an engine's environment that holds the id of its run."""
_PROC = Path("/proc")
_KILL_TIMEOUT = timedelta(seconds=5)
"""That killed processes may take to be gone; only one that hangs in the kernel takes longer."""
_POLL_INTERVAL = timedelta(milliseconds=10)


class Process(NamedTuple):
    """One process for good: its pid may be used again, pid and start together are not."""

    pid: int
    started: int
    """In the kernel's ticks since boot."""

    @classmethod
    def of(cls, pid: int) -> Process:
        """Raises ProcessLookupError when there is none."""
        if (row := _row(pid)) is None:
            raise ProcessLookupError(pid)
        return cls(pid, row.started)

    @property
    def alive(self) -> bool:
        """Whether it runs still; a zombie does not."""
        row = _row(self.pid)
        return row is not None and row.started == self.started and row.state not in "ZX"

    def send(self, number: signal.Signals) -> None:
        """Send the signal if it is alive."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def gone(self, *, within: timedelta) -> bool:
        """Whether it ended in that many seconds."""
        deadline = time.monotonic() + within.total_seconds()
        while self.alive:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_INTERVAL.total_seconds())
        return True


def family(leader: Process | None, mark: str) -> list[Process]:
    """Every living process of the engine that began with `leader`, None where that is unknown, and carries `mark`."""
    session = leader.pid if leader and not _pid_reused(leader) else None
    return [
        Process(pid, row.started)
        for pid, row in _rows()
        if row.state not in "ZX" and (row.session == session or _carries(pid, mark))
    ]


def kill_family(leader: Process | None, mark: str) -> bool:
    """Kill them all, those too that are born meanwhile; whether they are gone."""
    deadline = time.monotonic() + _KILL_TIMEOUT.total_seconds()
    while left := family(leader, mark):
        if time.monotonic() > deadline:
            return False
        for process in left:
            process.send(signal.SIGKILL)
        time.sleep(_POLL_INTERVAL.total_seconds())
    return True


def private_memory(processes: list[Process]) -> int:
    """Bytes that are theirs alone: what is mapped from files does not count, for the kernel can take it back."""
    return sum(_field(process.pid, "status", ("RssAnon:", "RssShmem:")) for process in processes)


def proportional_memory(processes: list[Process]) -> int:
    """The same with what several of them share counted once. Exact, and dear: the kernel walks all their pages."""
    return sum(_field(process.pid, "smaps_rollup", ("Pss_Anon:", "Pss_Shmem:")) for process in processes)


def _pid_reused(process: Process) -> bool:
    """Whether somebody else has its pid. Then its session is over: while there is one, the kernel keeps the pid."""
    row = _row(process.pid)
    return row is not None and row.started != process.started


class _Row(NamedTuple):
    state: str
    session: int
    started: int


def _row(pid: int) -> _Row | None:
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The program's name stands in brackets and may hold anything, brackets too.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return _Row(fields[0].decode(), int(fields[3]), int(fields[19]))


def _rows() -> Iterator[tuple[int, _Row]]:
    for name in os.listdir(_PROC):  # noqa: PTH208 names are all that is wanted, of a directory with thousands
        if name.isdigit() and (row := _row(int(name))) is not None:
            yield int(name), row


def _carries(pid: int, mark: str) -> bool:
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return False  # another user's, or gone
    return f"{MARK}={mark}".encode() in environment.split(b"\0")


def _field(pid: int, file: str, names: tuple[str, ...]) -> int:
    try:
        lines = (_PROC / str(pid) / file).read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(names))
