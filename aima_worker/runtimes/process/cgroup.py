"""A control group per native engine, where the supervisor may make one: the kernel limits memory that no poll sees.

Beside the supervisor's own group, never around it, so that a worker's limits hold for its engines, too. Version 1 has a
tree per controller; in version 2 the group that holds the supervisor's has both controllers enabled already, or is one
that systemd has delegated (`Delegate=memory pids`), in which they are enabled here. The standard library only.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Self

_ROOT = Path("/sys/fs/cgroup")
_CONTROLLERS = ("memory", "pids")
_MEMORY_FILES = ("memory.limit_in_bytes", "memory.max")
_DELEGATED = ("trusted.delegate", "user.delegate")
"""Attributes of a group that systemd leaves to the unit's processes; the second since systemd 251."""
_OOM_FILES = ("memory.oom_control", "memory.events")
_REMOVAL_TIMEOUT = timedelta(seconds=2)
"""For the kernel to forget killed processes."""
_POLL_INTERVAL = timedelta(milliseconds=10)


class Cgroup:
    def __init__(self, directories: list[Path]) -> None:
        self._directories = directories

    @classmethod
    def make(cls, name: str, *, memory: int | None, pids: int) -> Self | None:
        """None where it may not. One that a crash left under that name is used again."""
        made = cls([parent / name for parent in _parents()])
        try:
            for directory in made._directories:
                directory.mkdir(exist_ok=True)
            made._write("pids.max", str(pids))
            if memory is not None:
                for file in _MEMORY_FILES:
                    made._write(file, str(memory))
        except OSError:
            made.remove()
            return None
        return made if made._directories else None

    def enter(self) -> None:
        """Moves this process into it. Raises OSError."""
        for directory in self._directories:
            (directory / "cgroup.procs").write_text("0")

    def out_of_memory(self) -> bool:
        """Whether the kernel has killed a process in it."""
        for directory in self._directories:
            for file in _OOM_FILES:
                with suppress(OSError):
                    lines = (directory / file).read_text().splitlines()
                    if any(line.startswith("oom_kill ") and line != "oom_kill 0" for line in lines):
                        return True
        return False

    def remove(self) -> None:
        """Once it is empty."""
        deadline = time.monotonic() + _REMOVAL_TIMEOUT.total_seconds()
        for directory in self._directories:
            while directory.exists() and time.monotonic() < deadline:
                with suppress(OSError):
                    directory.rmdir()
                    break
                time.sleep(_POLL_INTERVAL.total_seconds())

    def _write(self, file: str, text: str) -> None:
        for directory in self._directories:
            if (directory / file).exists():
                (directory / file).write_text(text)


def _parents() -> list[Path]:
    """The groups in which a group with these controllers can be made; none if there are none."""
    rows = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    paths = {controller: path for _, controllers, path in rows for controller in controllers.split(",")}
    if all(controller in paths for controller in _CONTROLLERS):
        return [_ROOT / controller / paths[controller].lstrip("/") for controller in _CONTROLLERS]
    own = _ROOT / paths.get("", "/").lstrip("/")
    parent = own if own == _ROOT else own.parent
    with suppress(OSError):
        if not _has_enabled(parent) and _is_delegated(parent):
            (parent / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in _CONTROLLERS))
        return [parent] if _has_enabled(parent) and os.access(parent, os.W_OK) else []
    return []


def _has_enabled(group: Path) -> bool:
    return set(_CONTROLLERS) <= set((group / "cgroup.subtree_control").read_text().split())


def _is_delegated(group: Path) -> bool:
    for attribute in _DELEGATED:
        with suppress(OSError):
            return os.getxattr(group, attribute) == b"1"
    return False
