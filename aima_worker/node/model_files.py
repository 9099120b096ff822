"""Lists the directories with files below this host's model roots and the models of its store, and measures its disk.

The host announces them.

A model root on a network file system can hang: then the last list stays announced, and no heartbeat waits for it. No
symbolic link to a directory is followed, as none is when a model is mounted.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path

from aima_core.domain.models import ModelDisk, ModelOnHost
from aima_core.system.background import BackgroundLoop

SCAN_INTERVAL = timedelta(minutes=1)
DISK_INTERVAL = timedelta(seconds=5)
"""Starts are admitted by the free disk as it was then."""
MAX_DIRECTORIES = 300
"""Announced: every listing of hosts carries them."""
MAX_DEPTH = 3
"""Below a root, such as `organisation/name/revision`."""
MAX_ENTRIES = 20_000
"""Looked at in one scan."""


class ModelFiles:
    def __init__(
        self,
        roots: Iterable[Path],
        *,
        changed: Callable[[], None],
        store: Path | None = None,
        stored: Callable[[], tuple[ModelOnHost, ...]] = tuple,
        measure_disk: Callable[[], ModelDisk | None] = lambda: None,
        interval: timedelta = SCAN_INTERVAL,
    ) -> None:
        """`store` is left out of the directories, should it lie below a root."""
        self.directories: tuple[str, ...] | None = None
        """Relative to their roots; None before the first scan has ended."""
        self.stored: tuple[ModelOnHost, ...] = ()
        self._roots = [root.expanduser() for root in roots]
        self._store = store
        self._list_stored = stored
        self._measure_disk = measure_disk
        self._disk: ModelDisk | None = None
        self._changed = changed
        self._interval = interval
        self._due = 0.0
        self._loop = BackgroundLoop("model files", self._run_pass, interval=min(interval, DISK_INTERVAL))

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop()

    def wake(self) -> None:
        """Scans now, such as after a model was published."""
        self._due = 0.0
        self._loop.wake()

    def _run_pass(self) -> None:
        if time.monotonic() < self._due:
            self._measure_disk()
            return
        self._due = time.monotonic() + self._interval.total_seconds()
        self.scan()

    def scan(self) -> None:
        found = tuple(sorted(_directories_with_files(self._roots, leaving_out=self._store)))[:MAX_DIRECTORIES]
        stored, disk = self._list_stored(), self._measure_disk()
        if (found, stored, disk) != (self.directories, self.stored, self._disk):
            self.directories, self.stored, self._disk = found, stored, disk
            self._changed()


def _directories_with_files(roots: Iterable[Path], *, leaving_out: Path | None) -> set[str]:
    """Breadth first, so that a large directory hides none that is nearer to a root."""
    found, entries = set[str](), 0
    queue = deque((root, "", 0) for root in roots)
    while queue and entries < MAX_ENTRIES:
        directory, relative, depth = queue.popleft()
        for entry in _entries(directory):
            entries += 1
            if entry.is_dir(follow_symlinks=False):
                if depth < MAX_DEPTH and not entry.name.startswith(".") and Path(entry.path) != leaving_out:
                    queue.append((Path(entry.path), f"{relative}/{entry.name}".lstrip("/"), depth + 1))
            elif depth and entry.name.isprintable():
                found.add(relative)
    return found


def _entries(directory: Path) -> Iterator[os.DirEntry[str]]:
    """None of a directory that is missing, or that the worker may not read."""
    try:
        with os.scandir(directory) as entries:
            yield from entries
    except OSError:
        return
