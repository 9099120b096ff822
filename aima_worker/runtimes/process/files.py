"""The files of one run, shared by the runtime, its supervisor, and the worker after a restart; all written atomically.

file          written by    content
spec.json     runtime       the spec and the id of this run; exists from before its start until its removal
running.json  supervisor    the pids with their start times, and the time of the start
exit.json     supervisor    the exit code; the log is complete by then. Its room is reserved before the start
log, log.1    supervisor    sanitized lines, newest in `log`: `2026-11-22T16:47:47.123456Z o text`, `e` for stderr
work/         engine        its working directory

On a full disk, lines of the log are dropped and the exit is still recorded. Readers may be concurrent, also after a
restart of the worker. The standard library only: the worker is blocked while a supervisor starts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aima_core.logs.dedup import StreamName
from aima_core.system.state_dir import write_atomically
from aima_worker.runtimes.process.disk import free_space

SPEC = "spec.json"
RUNNING = "running.json"
EXIT = "exit.json"
LOG = "log"
WORK = "work"
_RESERVED = ".exit"
_RESERVED_BYTES = 256

FILE_LIMIT = 25 << 20
"""Bytes after which a log is rotated. One older file is kept."""
SMALLEST_FILE_LIMIT = 64 << 10
FREE_SPACE_SHARE = 20
"""A file of a log takes at most a twentieth of the space that is free, or the smallest limit."""
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"
"""Sorts as text."""
_LETTERS: dict[StreamName, str] = {"stdout": "o", "stderr": "e"}
_STREAMS: dict[str, StreamName] = {letter: stream for stream, letter in _LETTERS.items()}

LOST_EXIT_CODE = 137
"""Of an engine whose supervisor crashed before it recorded the exit: the engine was killed."""


def write(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(content))


def read(path: Path) -> dict[str, Any] | None:
    """None if the file is missing."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return content


def reserve_exit(directory: Path) -> None:
    """Raises OSError if there is no room for it."""
    (directory / _RESERVED).write_text(" " * _RESERVED_BYTES)


def write_exit(directory: Path, *, code: int, out_of_memory: bool) -> dict[str, Any]:
    """Overwrites what was reserved, since the disk may be full. It stays unrecorded where there is no room."""
    ended = {"code": code, "out_of_memory": out_of_memory}
    with suppress(OSError):  # race: removed by another thread or worker
        try:
            reserved = os.open(directory / _RESERVED, os.O_WRONLY)
        except FileNotFoundError:  # started by an earlier version
            write(directory / EXIT, ended)
            return ended
        try:
            os.pwrite(reserved, json.dumps(ended).ljust(_RESERVED_BYTES).encode(), 0)
        finally:
            os.close(reserved)
        (directory / _RESERVED).replace(directory / EXIT)
    return ended


def older(log: Path) -> Path:
    return log.with_name(f"{log.name}.1")


def time_text(at: datetime) -> str:
    return at.astimezone(UTC).strftime(TIME_FORMAT)


def parse(line: bytes) -> tuple[str, StreamName, str]:
    """Time, stream and text."""
    at, letter, text = line.decode().split(" ", 2)
    return at, _STREAMS[letter], text


class LogWriter:
    """Appends to a log and rotates it at its limit. Drops lines, and counts them, while the disk is full."""

    def __init__(self, log: Path, *, file_limit: int = FILE_LIMIT) -> None:
        self._log = log
        self._file_limit = file_limit
        self._file = log.open("ab", buffering=0)
        self._last = ""
        self._dropped = 0

    def write(self, stream: StreamName, lines: Iterable[str]) -> None:
        # Monotonic, also if the clock is set back: readers resume by time, and stale times would be skipped.
        self._last = max(self._last, time_text(datetime.now(UTC)))
        written = [f"{self._last} {_LETTERS[stream]} {line}\n" for line in lines]
        if self._dropped and written:
            note = f"[{self._dropped} lines dropped: no space was left on the disk of the log]"
            written.insert(0, f"{self._last} {_LETTERS['stderr']} {note}\n")
        if not written:
            return
        if self._append("".join(written).encode()):
            self._dropped = 0
        else:
            self._dropped += len(written) - bool(self._dropped)

    def close(self) -> None:
        self._file.close()

    def _append(self, data: bytes) -> bool:
        """All or nothing: a part of a line would be joined with the next one."""
        try:
            size = os.fstat(self._file.fileno()).st_size
            if size and size + len(data) > self._limit():
                self._rotate()
                size = 0
            if self._file.write(data) == len(data):
                return True
            os.ftruncate(self._file.fileno(), size)
        except OSError:
            pass  # no space, or beyond a quota
        return False

    def _limit(self) -> int:
        return min(self._file_limit, max(SMALLEST_FILE_LIMIT, free_space(self._log.parent) // FREE_SPACE_SHARE))

    def _rotate(self) -> None:
        with suppress(FileNotFoundError):  # the last rotation found no room for a new file
            self._log.replace(older(self._log))
        before, self._file = self._file, self._log.open("ab", buffering=0)
        before.close()
