"""Pieces of a model that is fetched: a queue for the threads that download them, and the journal of those on the disk.

A piece is journalled after its bytes, and its prefix after each megabyte, so that after a crash or a restart of the
worker the next fetch resumes there. Journalled bytes are hashed again: a crash of the machine may leave them stale.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from threading import Condition
from typing import NamedTuple

from aima_core.domain.models import ManifestFile

PIECE_SIZE = 16 << 20
"""Bytes; pieces never span files."""


class Piece(NamedTuple):
    file: int
    """The position of its file among all files by path."""
    number: int
    start: int
    length: int


def pieces_of(files: Sequence[ManifestFile]) -> list[list[Piece]]:
    """The pieces of each file; none of an empty one."""
    return [
        [
            Piece(number, start // PIECE_SIZE, start, min(PIECE_SIZE, file.size - start))
            for start in range(0, file.size, PIECE_SIZE)
        ]
        for number, file in enumerate(files)
    ]


class PieceQueue:
    """Missing pieces in the order of the files, so that these are complete one after the other. For several threads."""

    def __init__(self, files: Sequence[ManifestFile], there: Collection[Piece]) -> None:
        self._pieces = pieces_of(files)
        self._there = set(there)
        self._missing = [piece for pieces in self._pieces for piece in pieces if piece not in self._there]
        self._as_a_whole = set[int]()
        self._closed = False
        self._changed = Condition()

    @property
    def held(self) -> int:
        """Bytes of the pieces that are there."""
        with self._changed:
            return sum(piece.length for piece in self._there)

    def of(self, file: int) -> list[Piece]:
        return self._pieces[file]

    def take(self) -> Iterator[Piece]:
        """Missing pieces, each for one thread: blocked while the queue is empty, and ended once it is closed."""
        while (piece := self._next()) is not None:
            yield piece

    def take_file(self, file: int) -> bool:
        """Takes all missing pieces of a file that is sent as a whole only; False if another thread has (race)."""
        with self._changed:
            if file in self._as_a_whole:
                return False
            self._as_a_whole.add(file)
            self._missing = [piece for piece in self._missing if piece.file != file]
            heapq.heapify(self._missing)
            return True

    def is_there(self, piece: Piece) -> bool:
        with self._changed:
            return piece in self._there

    def add(self, piece: Piece) -> None:
        """It is on the disk and in the journal: wakes the threads that wait for it."""
        with self._changed:
            self._there.add(piece)
            self._changed.notify_all()

    def wait_for(self, piece: Piece) -> bool:
        """Blocked until a thread has added it; False if the queue is closed before."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or piece in self._there)
            return piece in self._there

    def put_back(self, pieces: Collection[Piece]) -> None:
        """Requeues pieces, which a thread downloads again."""
        with self._changed:
            for piece in pieces:
                self._there.discard(piece)
                self._as_a_whole.discard(piece.file)
                heapq.heappush(self._missing, piece)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next(self) -> Piece | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._missing)
            return None if self._closed else heapq.heappop(self._missing)


class Prefix(NamedTuple):
    """The beginning of a piece that is on the disk."""

    length: int
    sha256: str


class Journal:
    """Lines with the SHA-256 of pieces and of their prefixes, appended; a line cut by a crash is ignored.

    For several threads.
    """

    def __init__(self, path: Path, files: Sequence[ManifestFile]) -> None:
        known = {(piece.file, piece.number): piece for pieces in pieces_of(files) for piece in pieces}
        self.hashes: dict[Piece, str] = {}
        """Of the pieces that were on the disk when it was read."""
        self.prefixes: dict[Piece, Prefix] = {}
        """The longest journalled prefix of each other piece, from which a retry continues."""
        for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
            if (entry := _entry(line)) and (piece := known.get(entry[:2])):
                self.prefixes[piece] = Prefix(*entry[2:])
        for piece in [piece for piece, prefix in self.prefixes.items() if prefix.length == piece.length]:
            self.hashes[piece] = self.prefixes.pop(piece).sha256
        self._path = path
        self._file: int | None = None

    def open(self) -> None:
        """To be appended to."""
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.write(self._file, b"\n")  # ends a line that was cut

    @property
    def bytes(self) -> int:
        """That were on the disk when it was read."""
        return sum(piece.length for piece in self.hashes) + sum(prefix.length for prefix in self.prefixes.values())

    def record(self, piece: Piece, length: int, sha256: str) -> None:
        assert self._file is not None
        os.write(self._file, f"{piece.file} {piece.number} {length} {sha256}\n".encode())

    def forget(self, piece: Piece) -> None:
        """Its journal entry is stale: the bytes are gone."""
        self.hashes.pop(piece, None)
        self.prefixes.pop(piece, None)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)


def _entry(line: str) -> tuple[int, int, int, str] | None:
    file, number, length, digest = (line.split(" ") + [""] * 4)[:4]
    if not (file.isdigit() and number.isdigit() and length.isdigit() and len(digest) == 64):
        return None
    return int(file), int(number), int(length), digest
