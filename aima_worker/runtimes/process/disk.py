"""What one engine writes: measured, bounded, and removed, whatever it has made there.

A hostile tree is deeper than a path or Python's recursion allows. Files that were deleted while they are open count as
long as a process holds them. The standard library only: the supervisor imports it.
"""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from itertools import count
from pathlib import Path

from aima_worker.runtimes.process.process_table import Process

MOST_FILES = 200_000
"""Files and directories of one engine."""
FLOOR = 1 << 30
FLOOR_SHARE = 20
"""Of a file system, 1 GiB or a twentieth of its size, if that is less, is not for engines."""
_BLOCK = 512
_CHECK_INTERVAL = timedelta(seconds=1)
_INTERVAL_PER_DURATION = 20
"""A check may take a twentieth of the time."""
_PROC = Path("/proc")


def free_space(directory: Path) -> int:
    """Bytes that users without privileges may still write, 0 if it cannot be read."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


def floor_of(directory: Path) -> int:
    found = os.statvfs(directory)
    return min(FLOOR, found.f_blocks * found.f_frsize // FLOOR_SHARE)


class DiskLimit:
    """Polls what an engine holds of the disk: seldom while there is room, at once when there is little."""

    def __init__(self, directory: Path, limit: int) -> None:
        self._directory = directory
        self._limit = limit
        self._floor = floor_of(directory)
        self._next_check = 0.0

    def exceeded(self, processes: Iterable[Process]) -> str | None:
        """The limit that is exceeded; None if there is none, and between two checks."""
        began = time.monotonic()
        is_low = free_space(self._directory) < self._floor
        if began < self._next_check and not is_low:
            return None
        try:
            used = held(self._directory, processes)
        except OverflowError as unbounded:
            return str(unbounded)
        ended = time.monotonic()
        self._next_check = ended + max(_CHECK_INTERVAL.total_seconds(), _INTERVAL_PER_DURATION * (ended - began))
        if used > self._limit:
            return f"its files take {used} bytes, and its limit is {self._limit} (`native.disk`)"
        if is_low and used > self._floor:
            return f"its files take {used} bytes, and less than {self._floor} are left on their disk"
        return None


def held(directory: Path, processes: Iterable[Process]) -> int:
    """Bytes of its files, deleted ones that are open or mapped, too. Raises OverflowError beyond all bounds."""
    bytes_held, entries_seen = 0, 0
    linked: set[tuple[int, int]] = set()
    waiting = [str(directory)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(found.st_mode):
                        waiting.append(entry.path)
                    elif found.st_nlink > 1:
                        if (found.st_dev, found.st_ino) in linked:
                            continue
                        linked.add((found.st_dev, found.st_ino))
                    bytes_held += found.st_blocks * _BLOCK
                    entries_seen += 1
                    if entries_seen > MOST_FILES:
                        raise OverflowError(f"it has more than {MOST_FILES} files")
        except FileNotFoundError:
            continue  # race: removed meanwhile
        except OSError as refused:
            raise OverflowError(f"its files cannot be measured: {refused.strerror}") from refused
    device = directory.stat().st_dev
    return bytes_held + sum(size for at, size in dict(_deleted(processes)).items() if at[0] == device)


def _deleted(processes: Iterable[Process]) -> Iterable[tuple[tuple[int, int], int]]:
    for process in processes:
        for kind in ("fd", "map_files"):
            with suppress(OSError):
                for entry in (_PROC / str(process.pid) / kind).iterdir():
                    with suppress(OSError):
                        found = entry.stat()
                        if stat.S_ISREG(found.st_mode) and not found.st_nlink:
                            yield (found.st_dev, found.st_ino), found.st_blocks * _BLOCK


def remove_tree(directory: Path) -> None:
    """Deletes it with everything below, without recursion and without following links. Needs no free space.

    Deep trees are flattened: the directories below the first level are moved up to it. What cannot be removed stays.
    """
    token = secrets.token_hex(8)
    with suppress(OSError):
        top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            for round_number in count():
                if not (left := _directories_left(top)):
                    break
                for number, name in enumerate(left):
                    _flatten(top, name, f".{token}-{round_number}-{number}")
        finally:
            os.close(top)
        directory.rmdir()


def _directories_left(top: int) -> list[str]:
    """Removes all else."""
    directories = []
    for name in os.listdir(top):
        if stat.S_ISDIR(os.stat(name, dir_fd=top, follow_symlinks=False).st_mode):
            directories.append(name)
        else:
            os.unlink(name, dir_fd=top)
    return directories


def _flatten(top: int, name: str, prefix: str) -> None:
    """Moves the directories in `name` up to `top`, where their names begin with `prefix`, and removes it."""
    os.chmod(name, 0o700, dir_fd=top)
    inside = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
    try:
        for number, below in enumerate(_directories_left(inside)):
            os.rename(below, f"{prefix}-{number}", src_dir_fd=inside, dst_dir_fd=top)
    finally:
        os.close(inside)
    os.rmdir(name, dir_fd=top)
