"""The streams of native processes: a log polled from disk, and changes polled from listings.

A log's rotation races with its reader, which therefore checks for it before each read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from mmap import ACCESS_READ, mmap
from pathlib import Path
from threading import Event
from typing import BinaryIO

from aima_core.logs.protocol import LogLine
from aima_worker.runtime import Container, LogStream, Status
from aima_worker.runtimes.process.files import older, parse, time_text

CHUNK = 1 << 16
POLL_INTERVAL = timedelta(milliseconds=50)
LONGEST_POLL_INTERVAL = timedelta(milliseconds=500)


class ProcessLogs(LogStream):
    def __init__(
        self, log: Path, *, has_ended: Callable[[], bool], follow: bool, tail: int | None, since: datetime | None
    ) -> None:
        self._log = log
        self._has_ended = has_ended
        self._follow = follow
        self._tail = tail
        self._since = time_text(since) if since else ""
        self._closed = Event()

    def __iter__(self) -> Iterator[LogLine]:
        with ExitStack() as files:
            for line in self._raw_lines(files):
                if self._closed.is_set():
                    return
                at, stream, text = parse(line)
                if at >= self._since:
                    yield LogLine(at=datetime.fromisoformat(at), stream=stream, text=text)

    def close(self) -> None:
        self._closed.set()

    def _raw_lines(self, files: ExitStack) -> Iterator[bytes]:
        newest = _opened(self._log, files)
        if newest is None:
            return
        before = _opened(older(self._log), files)
        if before is not None and os.path.sameopenfile(before.fileno(), newest.fileno()):
            before = None  # race: it was rotated in between
        found = 0 if self._tail is None else _seek_last_lines(newest, self._tail)
        if before is not None:
            if self._tail is not None:
                _seek_last_lines(before, self._tail - found)
            yield from (line.removesuffix(b"\n") for line in before)
        yield from self._lines_on(newest, files)

    def _lines_on(self, file: BinaryIO, files: ExitStack) -> Iterator[bytes]:
        """From the position of `file` to the end of the log, across rotations."""
        rest, wait = b"", POLL_INTERVAL
        while True:
            # Race: both are checked before the read, so that every line written until then is read.
            last_read = self._closed.is_set() or not self._follow or self._has_ended()
            rotated = self._rotated(file)
            while chunk := file.read(CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from lines
                wait = POLL_INTERVAL
            if rotated and (successor := _opened(self._log, files)) is not None:
                file.close()
                file = successor
            elif last_read:
                return
            else:
                self._closed.wait(wait.total_seconds())
                wait = min(wait * 1.5, LONGEST_POLL_INTERVAL)

    def _rotated(self, file: BinaryIO) -> bool:
        try:
            return not os.path.samestat(self._log.stat(), os.fstat(file.fileno()))
        except (FileNotFoundError, NotADirectoryError):
            return False


class PolledChanges:
    """A ChangeStream that polls the listing and compares snapshots."""

    def __init__(self, listing: Callable[[], list[Container]]) -> None:
        self._listing = listing
        self._closed = Event()
        self._known = self._snapshot()

    def __iter__(self) -> Iterator[str]:
        while not self._closed.wait(LONGEST_POLL_INTERVAL.total_seconds()):
            before, self._known = self._known, self._snapshot()
            yield from {name for name, _, _ in before ^ self._known}

    def close(self) -> None:
        self._closed.set()

    def _snapshot(self) -> set[tuple[str, str, Status]]:
        return {(container.name, container.id, container.status) for container in self._listing()}


def _opened(path: Path, files: ExitStack) -> BinaryIO | None:
    try:
        return files.enter_context(path.open("rb"))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _seek_last_lines(file: BinaryIO, count: int) -> int:
    """Seek to the beginning of the last `count` lines, and return how many there are, at most `count`."""
    if not os.fstat(file.fileno()).st_size:
        return 0
    with mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        found, start = 0, len(content)
        while found < count and start:
            # The newline right before `start` ends the line that is looked for.
            found, start = found + 1, content.rfind(b"\n", 0, start - 1) + 1
    file.seek(start)
    return found
