"""From the bytes an engine writes to lines that are safe to store and to print.

Every runtime's log passes here. Nothing is kept but the line that is not finished yet, and of that one piece at most.
"""

from __future__ import annotations

from collections.abc import Iterator

from aima_core.logs.sanitize import sanitized_line

LINE_LIMIT = 16 * 1024
"""Bytes of a line as UTF-8. A longer one comes in several pieces."""


class LineSplitter:
    """Cuts one stream of bytes into harmless lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[str]:
        """The lines that `data` completes, and full pieces of one that is too long."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            yield from _pieces(line)
        while len(self._rest) > LINE_LIMIT:
            cut = _boundary(self._rest)
            yield from _pieces(self._rest[:cut])
            self._rest = self._rest[cut:]

    def end(self) -> Iterator[str]:
        """What was left without a line's end."""
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
    """Each invalid byte has become three: cut again where that was too much."""
    encoded = text.encode()
    while len(encoded) > LINE_LIMIT:
        cut = _boundary(encoded)
        yield encoded[:cut].decode()
        encoded = encoded[cut:]
    yield encoded.decode()


def _boundary(line: bytes) -> int:
    """The last place within the limit that does not cut a character."""
    cut = LINE_LIMIT
    while cut > LINE_LIMIT - 4 and line[cut] & 0xC0 == 0x80:
        cut -= 1
    return cut if cut > LINE_LIMIT - 4 else LINE_LIMIT
