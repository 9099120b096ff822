"""Pieces of a model that is fetched: a queue for the threads that download them, and the journal of those on the disk.

A piece is journalled after its bytes, and its prefix after each megabyte, so that after a crash or a restart of the
worker the next fetch resumes there. Journalled bytes are hashed again: a crash of the machine may leave them stale.
"""

from __future__ import annotations

import heapq
import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from threading import Condition
from typing import NamedTuple

from aima_core.domain.ids import HostName
from aima_core.domain.models import ManifestFile

PIECE_SIZE = 16 << 20
"""Bytes; pieces never span files."""


class Piece(NamedTuple):
    file: int
    """The position of its file among all files by path."""
    number: int
    start: int
    length: int


class Download(NamedTuple):
    """A piece for one thread."""

    piece: Piece
    source: HostName | None = None
    """The host that serves it; None is the origin."""
    sha256: str | None = None
    """As a host has published it; None while it is not known."""
    publisher: HostName | None = None
    """That host."""


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
    """Missing pieces in the order of the files, so that these are complete one after the other. For several threads.

    Unless others are asked first, its threads download all of them from the origin.
    """

    def __init__(
        self, files: Sequence[ManifestFile], there: Collection[Piece], *, connections: int = 1 << 10, alone: bool = True
    ) -> None:
        """`connections` limits the downloads from the origin that begin here; offered ones are not limited.

        With 0, no download from the origin begins, also while the fetch is alone.
        """
        self._pieces = pieces_of(files)
        self._there = set(there)
        self._missing = {piece for pieces in self._pieces for piece in pieces} - self._there
        self._order = sorted(self._missing)
        self._offered = deque[Download]()
        self._flights: dict[Piece, HostName | None] = {}
        self._from_origin_only = set[Piece]()
        self._as_a_whole = set[int]()
        self._connections = connections
        self._alone = alone
        self._closed = False
        self._changed = Condition()

    @property
    def held(self) -> int:
        """Bytes of the pieces that are there."""
        with self._changed:
            return sum(piece.length for piece in self._there)

    def of(self, file: int) -> list[Piece]:
        return self._pieces[file]

    def take(self) -> Iterator[Download]:
        """Pieces, each for one thread: blocked while there are none to download, and ended once it is closed."""
        while (download := self._next()) is not None:
            yield download

    def take_now(self) -> Download | None:
        """The next piece, if there is one to download."""
        with self._changed:
            found: list[Download] = []
            return found[0] if self._found(found) else None

    def take_file(self, file: int) -> bool:
        """Takes all missing pieces of a file that is sent as a whole only; False if another thread has (race)."""
        with self._changed:
            if file in self._as_a_whole:
                return False
            self._as_a_whole.add(file)
            of_file = {piece for piece in self._missing if piece.file == file}
            self._missing -= of_file
            self._offered = deque(each for each in self._offered if each.piece.file != file)
            self._flights |= dict.fromkeys(of_file)
            return True

    def is_there(self, piece: Piece) -> bool:
        with self._changed:
            return piece in self._there

    def add(self, piece: Piece) -> None:
        """It is on the disk and in the journal: wakes the threads that wait for it."""
        with self._changed:
            self._there.add(piece)
            self._flights.pop(piece, None)
            self._changed.notify_all()

    def wait_for(self, piece: Piece) -> bool:
        """Blocked until a thread has added it; False if the queue is closed before."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or piece in self._there)
            return piece in self._there

    def put_back(self, pieces: Collection[Piece], *, from_origin_only: bool = False) -> None:
        """Requeues pieces, which a thread downloads again."""
        with self._changed:
            for piece in pieces:
                self._there.discard(piece)
                self._flights.pop(piece, None)
                self._as_a_whole.discard(piece.file)
                if from_origin_only:
                    self._from_origin_only.add(piece)
                if piece not in self._missing:
                    self._missing.add(piece)
                    heapq.heappush(self._order, piece)
            self._changed.notify_all()

    def snapshot(self) -> Snapshot:
        with self._changed:
            shared = self._missing - self._from_origin_only
            return Snapshot(frozenset(self._there), frozenset(shared), dict(self._flights))

    def offer(self, downloads: Iterable[Download], *, alone: bool) -> None:
        """Downloads to be taken next. Alone, threads also take any missing piece from the origin."""
        with self._changed:
            for download in downloads:
                if download.piece in self._missing:
                    self._missing.discard(download.piece)
                    self._flights[download.piece] = download.source
                    self._offered.append(download)
            self._alone = alone
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next(self) -> Download | None:
        with self._changed:
            found: list[Download] = []
            self._changed.wait_for(lambda: self._closed or self._found(found))
            return None if self._closed else found[0]

    def _found(self, found: list[Download]) -> bool:
        if self._offered:
            found.append(self._offered.popleft())
            return True
        if not (self._alone or self._from_origin_only & self._missing):
            return False
        if sum(source is None for source in self._flights.values()) >= self._connections:
            return False
        while self._order:
            piece = heapq.heappop(self._order)
            if piece in self._missing and (self._alone or piece in self._from_origin_only):
                self._missing.discard(piece)
                self._flights[piece] = None
                found.append(Download(piece))
                return True
        return False


class Snapshot(NamedTuple):
    there: frozenset[Piece]
    missing: frozenset[Piece]
    """Not being downloaded, without pieces reserved for the origin."""
    flights: dict[Piece, HostName | None]
    """Downloads that have begun, or are to be taken next, with their sources."""


class Prefix(NamedTuple):
    """The beginning of a piece that is on the disk."""

    length: int
    sha256: str


class JournalReader:
    """The entries of a journal that another process or a fetch of earlier has written; a cut line is ignored."""

    def __init__(self, path: Path, files: Sequence[ManifestFile]) -> None:
        self.hashes: dict[Piece, str] = {}
        """Of the pieces that are on the disk."""
        self.prefixes: dict[Piece, Prefix] = {}
        """The longest journalled prefix of each other piece, from which a retry continues."""
        self._known = {(piece.file, piece.number): piece for pieces in pieces_of(files) for piece in pieces}
        self._path = path
        self._at = 0

    def read(self) -> None:
        """Reads the entries appended since. Raises OSError."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            new = file.read()
        complete = new.rpartition(b"\n")[0]
        self._at += len(complete) + bool(complete)
        for line in complete.decode(errors="replace").splitlines():
            if (entry := _entry(line)) and (piece := self._known.get(entry[:2])):
                self._apply(piece, Prefix(*entry[2:]))

    def _apply(self, piece: Piece, prefix: Prefix) -> None:
        self.hashes.pop(piece, None)
        self.prefixes.pop(piece, None)
        if prefix.length == piece.length:
            self.hashes[piece] = prefix.sha256
        elif prefix.length:
            self.prefixes[piece] = prefix


class Journal(JournalReader):
    """Lines with the SHA-256 of pieces and of their prefixes, appended. For several threads."""

    def __init__(self, path: Path, files: Sequence[ManifestFile]) -> None:
        super().__init__(path, files)
        self._file: int | None = None
        if path.exists():
            self.read()

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
        self.record(piece, 0, "0" * 64)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)


def _entry(line: str) -> tuple[int, int, int, str] | None:
    file, number, length, digest = (line.split(" ") + [""] * 4)[:4]
    if not (file.isdigit() and number.isdigit() and length.isdigit() and len(digest) == 64):
        return None
    return int(file), int(number), int(length), digest
