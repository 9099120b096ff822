"""Pieces of models for other hosts: what this host has published, and what a running fetch has journalled.

The journal on the disk says which pieces are there: the file of a running fetch has zeros elsewhere. A token names the
manifest, which only a signed command brings to this host. The receiver checks every byte.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from aiohttp.web import BaseRequest, StreamResponse

from aima_core.domain.models import ManifestFile
from aima_core.errors import NotForwarded, TokenRefused, TooManyUploads
from aima_core.system.pacing import Pacing
from aima_core.trust.peers import PieceAccess, PiecesOf
from aima_core.trust.tokens import BearerVerifier
from aima_worker.dataplane.files import Stamp, stamp_of
from aima_worker.dataplane.uploads import FileSender
from aima_worker.models.layout import FILES, JOURNAL, RECORD, place_of, record_of
from aima_worker.models.peers import PIECE_SHA256
from aima_worker.models.pieces import PIECE_SIZE, JournalReader, Piece, pieces_of

PREFIX = "/m/"
_PATH = re.compile(
    r"/m/([a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?)/([A-Za-z0-9][A-Za-z0-9._-]{0,11}-[0-9a-f]{12})/(0|[1-9][0-9]{0,3})"
)
_RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{1,15})")
LONGEST_UPLOAD = timedelta(minutes=2)
"""Of one piece: who reads more slowly gets it elsewhere."""
CHUNK = 1 << 20
"""Bytes that are sent at once, where sending is not left to the kernel alone."""
MOST_KEPT = 32
"""Models whose journals are kept in memory."""


class PieceServer:
    def __init__(
        self, tokens: BearerVerifier[PiecesOf, PieceAccess], store: Path, *, uploads: int, rate: int | None
    ) -> None:
        """`rate` in bytes per second; None is unlimited."""
        self.tokens = tokens
        self._store = store
        self._uploads = uploads
        self._sender = FileSender(max(1, uploads))
        self._rate = rate
        self._running = 0
        self._pacing = Pacing()
        self._models: dict[Path, _Model] = {}

    async def send(self, request: BaseRequest, token: str) -> StreamResponse:
        """Raises NotForwarded, TokenRefused, TooManyUploads."""
        path, asked = _PATH.fullmatch(request.raw_path), _RANGE.fullmatch(request.headers.get("Range", ""))
        access = self.tokens.check(token)
        if request.method != "GET" or path is None:
            raise NotForwarded
        with self._upload():
            model, piece = self._find(path[1], path[2], int(path[3]), asked, access)
            try:
                descriptor = os.open(model.path(piece), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError as gone:  # race: published or removed meanwhile
                raise NotForwarded from gone
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                async with asyncio.timeout(LONGEST_UPLOAD.total_seconds()):
                    return await self._send(request, file, model, piece)

    @contextmanager
    def _upload(self) -> Iterator[None]:
        if self._running >= self._uploads:
            raise TooManyUploads(most=self._uploads)
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    def _find(
        self, model: str, name: str, file: int, asked: re.Match[str] | None, access: PieceAccess
    ) -> tuple[_Model, Piece]:
        """The whole piece of the range, or the only piece of a file. Raises NotForwarded, TokenRefused."""
        for published in (True, False):
            found = self._model(place_of(self._store, model, name, published=published))
            if found is None:
                continue
            if found.digest != access.manifest:
                raise TokenRefused(why="it is for another model")
            first, last = (int(asked[1]), int(asked[2])) if asked else (0, found.size_of(file) - 1)
            if piece := found.piece(file, first, last):
                return found, piece
        raise NotForwarded

    def _model(self, place: Path) -> _Model | None:
        stamp = stamp_of(place / RECORD)
        known = self._models.pop(place, None)
        if known is None or known.stamp != stamp:
            record = record_of(place) if stamp else None
            if record is None:
                return None
            known = _Model(place, stamp, record.manifest.digest, record.manifest.by_path)
        self._models[place] = known
        if len(self._models) > MOST_KEPT:
            del self._models[next(iter(self._models))]
        return known

    async def _send(self, request: BaseRequest, file: BinaryIO, model: _Model, piece: Piece) -> StreamResponse:
        first, last, size = piece.start, piece.start + piece.length - 1, model.size_of(piece.file)
        headers = {
            "Content-Length": str(piece.length),
            "Content-Range": f"bytes {first}-{last}/{size}",
            "Content-Type": "application/octet-stream",
            PIECE_SHA256: model.hashes[piece],
        }
        response = StreamResponse(status=206, headers=headers)
        await response.prepare(request)
        transport = request.transport
        if transport is None:
            raise ConnectionResetError
        encrypted = transport.get_extra_info("sslcontext") is not None
        loop = asyncio.get_running_loop()
        step = CHUNK if encrypted or self._rate else piece.length
        for at in range(first, last + 1, step):
            count = min(step, last + 1 - at)
            await self._pace(count)
            if encrypted:  # the kernel cannot encrypt
                await response.write(await loop.run_in_executor(None, os.pread, file.fileno(), count, at))
            else:
                await self._sender.send(transport, file.fileno(), at=at, count=count)
        await response.write_eof()
        return response

    async def _pace(self, count: int) -> None:
        if self._rate:
            await asyncio.sleep(self._pacing.delay(count, self._rate, now=asyncio.get_running_loop().time()))


class _Model:
    """The record of a published model or of a running fetch, and what of its journal was read."""

    def __init__(self, place: Path, stamp: Stamp, digest: str, files: list[ManifestFile]) -> None:
        self.stamp = stamp
        self.digest = digest
        self._place = place
        self._files = files
        self._pieces = pieces_of(files)
        self._journal = JournalReader(place / JOURNAL, files)

    @property
    def hashes(self) -> dict[Piece, str]:
        return self._journal.hashes

    def path(self, piece: Piece) -> Path:
        return self._place / FILES / self._files[piece.file].path

    def size_of(self, file: int) -> int:
        return self._files[file].size if file < len(self._files) else 0

    def piece(self, file: int, first: int, last: int) -> Piece | None:
        """The journalled piece of exactly these bytes."""
        number = first // PIECE_SIZE
        if file >= len(self._files) or number >= len(self._pieces[file]):
            return None
        piece = self._pieces[file][number]
        if (piece.start, piece.start + piece.length - 1) != (first, last):
            return None
        try:
            self._journal.read()
        except OSError:
            return None
        return piece if piece in self._journal.hashes else None
