"""The access log: one logfmt line per request, like other log events, but rendered at once and written in batches.

A log event costs a gateway a fifth of a request, half of it for the write. A crash loses the lines of the last batch,
and so does a write that fails, as on a full disk: requests must not fail with it.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from math import inf

from aima_core.logs.sanitize import sanitized_lines

FLUSH_INTERVAL = timedelta(milliseconds=200)
"""How often `flush` is to be called."""
BATCH = 500
"""Lines that are written without waiting for it."""
_PLAIN = r"!#-<>-\[\]-~"
_IS_PLAIN = re.compile(rf"[{_PLAIN}]*").fullmatch
_ARE_PLAIN = re.compile(rf"[{_PLAIN}\0]*").fullmatch
"""Several with a zero byte between two: one match for a line instead of one for each value."""


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


class AccessLog:
    def __init__(self, event: str, fields: Sequence[str], write: Callable[[str], object] = _write) -> None:
        """`fields` are the names of the values of each line."""
        self._write = write
        self._separators = len(fields) - 1
        self._template = f"timestamp=%s level=info event={logfmt(event)} {' '.join(f'{each}=%s' for each in fields)}\n"
        self._lines: list[str] = []
        self._second = -inf
        self._second_text = ""

    def add(self, *values: object) -> None:
        texts = list(map(str, values))
        together = "\0".join(texts)
        if not _ARE_PLAIN(together) or together.count("\0") != self._separators:
            texts = list(map(logfmt, texts))
        self._lines.append(self._template % (self._timestamp(), *texts))
        if len(self._lines) >= BATCH:
            self.flush()

    def _timestamp(self) -> str:
        """The time in UTC; its second is rendered once."""
        now = time.time()
        if not 0 <= now - self._second < 1:
            self._second = now // 1
            self._second_text = f"{datetime.fromtimestamp(self._second, UTC):%Y-%m-%dT%H:%M:%S}"
        return f"{self._second_text}.{int((now - self._second) * 1e6):06d}Z"

    def flush(self) -> None:
        if self._lines:
            batch, self._lines = self._lines, []
            with suppress(OSError, ValueError):  # ValueError: the stream is closed
                self._write("".join(batch))


def logfmt(value: object) -> str:
    """A value as structlog's renderer writes it, sanitized."""
    text = str(value)
    if _IS_PLAIN(text):
        return text
    text = sanitized_lines(text)
    quoted = " " in text or "=" in text or '"' in text
    if quoted:
        text = text.replace("\\", "\\\\")
    text = text.replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"' if quoted else text
