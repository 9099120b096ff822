"""Lists the directories below this host's model roots that hold files, in a loop of its own; the host announces them.

A model root on a network file system can hang: then the last list stays announced, and no heartbeat waits for it. No
symbolic link to a directory is followed, as none is when a model is mounted.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path

from aima_core.system.background import BackgroundLoop

SCAN_INTERVAL = timedelta(minutes=1)
MAX_DIRECTORIES = 300
"""Announced: every listing of hosts carries them."""
MAX_DEPTH = 3
"""Below a root, such as `organisation/name/revision`."""
MAX_ENTRIES = 20_000
"""Looked at in one scan."""


class ModelFiles:
    def __init__(
        self, roots: Iterable[Path], *, changed: Callable[[], None], interval: timedelta = SCAN_INTERVAL
    ) -> None:
        self.directories: tuple[str, ...] | None = None
        """Relative to their roots; None before the first scan has ended."""
        self._roots = [root.expanduser() for root in roots]
        self._changed = changed
        self._loop = BackgroundLoop("model files", self.scan, interval=interval)

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop()

    def scan(self) -> None:
        found = tuple(sorted(_directories_with_files(self._roots)))[:MAX_DIRECTORIES]
        if found != self.directories:
            self.directories = found
            self._changed()


def _directories_with_files(roots: Iterable[Path]) -> set[str]:
    """Breadth first, so that a large directory hides none that is nearer to a root."""
    found, entries = set[str](), 0
    queue = deque((root, "", 0) for root in roots)
    while queue and entries < MAX_ENTRIES:
        directory, relative, depth = queue.popleft()
        for entry in _entries(directory):
            entries += 1
            if entry.is_dir(follow_symlinks=False):
                if depth < MAX_DEPTH and not entry.name.startswith("."):
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
