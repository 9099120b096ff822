"""An engine's log on disk: lines such as `2026-11-22T16:47:47.123456Z o text`, `e` for stderr, in at most two files.

Written by the engine's supervisor, already harmless; the standard library only.
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
"""In order as text."""
_LETTERS: dict[Stream, str] = {"stdout": "o", "stderr": "e"}
_STREAMS: dict[str, Stream] = {letter: stream for stream, letter in _LETTERS.items()}


def older(log: Path) -> Path:
    return log.with_name(f"{log.name}.1")


def time_text(at: datetime) -> str:
    return at.astimezone(UTC).strftime(TIME_FORMAT)


def parse(line: bytes) -> tuple[str, Stream, str]:
    """When, where and what."""
    at, letter, text = line.decode().split(" ", 2)
    return at, _STREAMS[letter], text


class LogWriter:
    """Appends to a log and begins a new file when it is time."""

    def __init__(self, log: Path, *, file_limit: int = FILE_LIMIT) -> None:
        self._log = log
        self._file_limit = file_limit
        self._file = log.open("ab", buffering=0)
        self._last = ""

    def write(self, stream: Stream, lines: Iterable[str]) -> None:
        # Never backwards, although the clock may be set: readers resume by time.
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
