"""Reads the kernel's process table: identity of processes in spite of reused pids, and the processes of one engine.

An engine's processes belong to its session, or have its mark in their environment: a daemon leaves its session, but
hardly ever its environment. A hostile one leaves both, but never a user of its own. Every read races with the exit of a
process. The standard library only.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from aima_worker.runtimes.process.users import user_of

MARK = "AIMA_PROCESS"
"""The environment variable with the id of the run."""
_PROC = Path("/proc")
_KILL_TIMEOUT = timedelta(seconds=5)
"""For killed processes to exit; a process blocked in the kernel may take longer."""
_POLL_INTERVAL = timedelta(milliseconds=10)


class Process(NamedTuple):
    """The identity of a process: pids are reused, pid and start time together are not."""

    pid: int
    started: int
    """Ticks of the kernel since boot."""

    @classmethod
    def of(cls, pid: int) -> Process:
        """Raises ProcessLookupError when there is none."""
        if (row := _row(pid)) is None:
            raise ProcessLookupError(pid)
        return cls(pid, row.started)

    @property
    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        row = _row(self.pid)
        return row is not None and row.started == self.started and row.state not in "ZX"

    def send(self, number: signal.Signals) -> None:
        """Send the signal if it is alive."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def gone(self, *, within: timedelta) -> bool:
        """Polls for its exit. Returns False on a timeout."""
        deadline = time.monotonic() + within.total_seconds()
        while self.alive:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_INTERVAL.total_seconds())
        return True


def family(leader: Process | None, mark: str, user: int | None = None) -> list[Process]:
    """Every living process of the engine with the session of `leader`, None if unknown, with the mark, or the user."""
    session = leader.pid if leader else None
    if leader and (row := _row(leader.pid)) and row.started != leader.started:
        session = None  # its pid is reused, so its session has ended: until then the kernel reserves the pid
    return [
        Process(pid, row.started)
        for pid in map(int, filter(str.isdigit, os.listdir(_PROC)))  # noqa: PTH208 only names, of thousands of entries
        if (row := _row(pid))
        and row.state not in "ZX"
        and (row.session == session or (user is not None and user_of(pid) == user) or _carries(pid, mark))
    ]


def descendants(leader: Process) -> list[Process]:
    """The process and its living children, theirs, and so on; empty once it has exited."""
    found = [leader] if leader.alive else []
    for process in found:
        for thread in _threads(process.pid):
            with suppress(OSError):  # race: the thread has ended
                pids = map(int, (thread / "children").read_text().split())
                found += [Process(pid, row.started) for pid in pids if (row := _row(pid))]
    return found


def _threads(pid: int) -> list[Path]:
    with suppress(OSError):  # race: the process has exited
        return list((_PROC / str(pid) / "task").iterdir())
    return []


def kill_family(leader: Process | None, mark: str) -> bool:
    """Kill all, retrying for processes that are forked concurrently. Returns False if some remain at the timeout."""
    deadline = time.monotonic() + _KILL_TIMEOUT.total_seconds()
    while left := family(leader, mark):
        if time.monotonic() > deadline:
            return False
        for process in left:
            process.send(signal.SIGKILL)
        time.sleep(_POLL_INTERVAL.total_seconds())
    return True


def private_memory(processes: list[Process]) -> int:
    """Bytes of their own. Mapped files do not count: the kernel can reclaim them."""
    return sum(_field(process.pid, "status", ("RssAnon:", "RssShmem:")) for process in processes)


def proportional_memory(processes: list[Process]) -> int:
    """The same with shared pages counted once. Exact but expensive: the kernel walks all pages."""
    return sum(_field(process.pid, "smaps_rollup", ("Pss_Anon:", "Pss_Shmem:")) for process in processes)


def cpu_ticks(processes: list[Process]) -> int:
    """Ticks of CPU time that they have used, with their threads and without children that have ended."""
    rows = (_row(process.pid) for process in processes)
    return sum(row.ticks for row in rows if row)


class _Row(NamedTuple):
    state: str
    session: int
    started: int
    ticks: int


def _row(pid: int) -> _Row | None:
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The program's name is in parentheses and may contain any character, parentheses too.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return _Row(fields[0].decode(), int(fields[3]), int(fields[19]), int(fields[11]) + int(fields[12]))


def _carries(pid: int, mark: str) -> bool:
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return False  # another user's, or a race with its exit
    return f"{MARK}={mark}".encode() in environment.split(b"\0")


def _field(pid: int, file: str, names: tuple[str, ...]) -> int:
    try:
        lines = (_PROC / str(pid) / file).read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(names))
