"""Splits an engine's output into sanitized lines, safe to store and to print; every runtime's log passes here.

Buffers at most one piece of an unfinished line, so output without a newline cannot exhaust the worker's memory.
"""

from __future__ import annotations

from collections.abc import Iterator

from aima_core.logs.sanitize import sanitized_line

LINE_LIMIT = 16 * 1024
"""Bytes of a line in UTF-8. A longer line is split into pieces."""


class LineSplitter:
    """The splitter of one stream of bytes. Not thread-safe."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[str]:
        """The lines that `data` completes, and the full pieces of a line beyond the limit."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            yield from _pieces(line)
        while len(self._rest) > LINE_LIMIT:
            cut = _boundary(self._rest)
            yield from _pieces(self._rest[:cut])
            self._rest = self._rest[cut:]

    def end(self) -> Iterator[str]:
        """The last line, if it has no newline: often the reason of a crash."""
        rest, self._rest = self._rest, b""
        if rest:
            yield from _pieces(rest)


def _pieces(line: bytes) -> Iterator[str]:
    while len(line) > LINE_LIMIT:
        cut = _boundary(line)
        yield from _within_limit(sanitized_line(line[:cut]))
        line = line[cut:]
    yield from _within_limit(sanitized_line(line))


def _within_limit(text: str) -> Iterator[str]:
    """Cuts again, since sanitizing turns each invalid byte into three."""
    encoded = text.encode()
    while len(encoded) > LINE_LIMIT:
        cut = _boundary(encoded)
        yield encoded[:cut].decode()
        encoded = encoded[cut:]
    yield encoded.decode()


def _boundary(line: bytes) -> int:
    """The last index within the limit that does not split a character."""
    cut = LINE_LIMIT
    while cut > LINE_LIMIT - 4 and line[cut] & 0xC0 == 0x80:
        cut -= 1
    return cut if cut > LINE_LIMIT - 4 else LINE_LIMIT
