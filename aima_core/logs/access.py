"""The access log: one logfmt line per request, like other log events, but rendered at once and written in batches.

A log event costs a gateway a fifth of a request, half of it for the write. A crash loses the lines of the last batch,
and so does a write that fails, as on a full disk: requests must not fail with it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

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
    def __init__(self, write: Callable[[str], object] = _write) -> None:
        self._write = write
        self._lines: list[str] = []

    def add(self, event: str, **fields: object) -> None:
        at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        texts = [str(value) for value in fields.values()]
        together = "\0".join(texts)
        if not _ARE_PLAIN(together) or together.count("\0") >= len(texts):
            texts = list(map(logfmt, texts))
        pairs = " ".join([f"{name}={text}" for name, text in zip(fields, texts, strict=True)])
        self._lines.append(f"timestamp={at} level=info event={logfmt(event)} {pairs}\n")
        if len(self._lines) >= BATCH:
            self.flush()

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
