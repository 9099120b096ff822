"""The log file of one engine: sanitized lines such as `2026-11-22T16:47:47.123456Z o text`, `e` for stderr.

The supervisor is the only writer; it rotates the log, so that a flood of output cannot fill the disk. Readers may be
concurrent, also after a restart of the worker. The standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

Stream = Literal["stdout", "stderr"]

FILE_LIMIT = 25 << 20
"""Bytes after which a log is rotated. One older file is kept."""
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"
"""Sorts as text."""
_LETTERS: dict[Stream, str] = {"stdout": "o", "stderr": "e"}
_STREAMS: dict[str, Stream] = {letter: stream for stream, letter in _LETTERS.items()}


def older(log: Path) -> Path:
    return log.with_name(f"{log.name}.1")


def time_text(at: datetime) -> str:
    return at.astimezone(UTC).strftime(TIME_FORMAT)


def parse(line: bytes) -> tuple[str, Stream, str]:
    """Time, stream and text."""
    at, letter, text = line.decode().split(" ", 2)
    return at, _STREAMS[letter], text


class LogWriter:
    """Appends to a log and rotates it at its limit."""

    def __init__(self, log: Path, *, file_limit: int = FILE_LIMIT) -> None:
        self._log = log
        self._file_limit = file_limit
        self._file = log.open("ab", buffering=0)
        self._last = ""

    def write(self, stream: Stream, lines: Iterable[str]) -> None:
        # Monotonic, also if the clock is set back: readers resume by time, and stale times would be skipped.
        self._last = max(self._last, time_text(datetime.now(UTC)))
        written = "".join(f"{self._last} {_LETTERS[stream]} {line}\n" for line in lines)
        if not written:
            return
        self._file.write(written.encode())
        if os.fstat(self._file.fileno()).st_size > self._file_limit:
            self._rotate()

    def close(self) -> None:
        self._file.close()

    def _rotate(self) -> None:
        self._file.close()
        self._log.replace(older(self._log))
        self._file = self._log.open("ab", buffering=0)
