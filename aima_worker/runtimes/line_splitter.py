"""Splits an engine's output into sanitized lines, safe to store and to print; every runtime's log passes here.

Buffers at most one piece of an unfinished line, so output without a newline cannot exhaust the worker's memory.
"""

from collections.abc import Iterator
from itertools import chain

from aima_core.logs.sanitize import sanitized_line

LINE_LIMIT = 16 * 1024
"""Bytes of a line in UTF-8. A longer line is split into pieces."""


class LineSplitter:
    """The splitter of one stream of bytes. Not thread-safe."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[str]:
        """The lines that `data` completes, and the full pieces of a line beyond the limit."""
        *lines, rest = (self._rest + data).split(b"\n")
        *full, self._rest = _pieces(rest)
        for piece in chain(*map(_pieces, lines), full):
            yield from _sanitized(piece)

    def end(self) -> Iterator[str]:
        """The last line, if it has no newline: often the reason of a crash."""
        rest, self._rest = self._rest, b""
        if rest:
            yield from _sanitized(rest)


def _sanitized(piece: bytes) -> Iterator[str]:
    """Cuts again, since sanitizing turns each invalid byte into three."""
    for part in _pieces(sanitized_line(piece).encode()):
        yield part.decode()


def _pieces(line: bytes) -> Iterator[bytes]:
    while len(line) > LINE_LIMIT:
        cut = _boundary(line)
        yield line[:cut]
        line = line[cut:]
    yield line


def _boundary(line: bytes) -> int:
    """The last index within the limit that does not split a character."""
    cut = LINE_LIMIT
    while cut > LINE_LIMIT - 4 and line[cut] & 0xC0 == 0x80:
        cut -= 1
    return cut if cut > LINE_LIMIT - 4 else LINE_LIMIT
