"""Downloads of pieces from the data planes of other hosts, which nothing here retries: another source may have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import SplitResult

from aima_core.domain.models import Manifest, ManifestFile
from aima_core.errors import NotCertified
from aima_core.trust.peers import PiecesOf
from aima_worker.models.origin import Interrupted, NoRanges, OriginClient, RemoteFile
from aima_worker.models.pieces import Piece

SILENCE = timedelta(seconds=5)
"""The timeout of one connection without a byte."""
PIECE_SHA256 = "AIMA-SHA256"
"""The header with the digest of the whole piece, as its host has journalled it."""


class PeerClient(OriginClient):
    """The connections of one thread."""

    def __init__(self, *, host: str, token_for: Callable[[PiecesOf], str], ca: Path | None) -> None:
        super().__init__(host=host, token=None, stall=SILENCE, ca=ca)
        self.sha256: str | None = None
        """Of the piece that is read, as its host says."""
        self._token_for = token_for
        self._access: PiecesOf | None = None

    def read_piece(
        self, access: PiecesOf, url: str, manifest: Manifest, file: ManifestFile, piece: Piece
    ) -> Iterator[memoryview]:
        """Each chunk is valid until the next. Raises Interrupted, also where a retry cannot help."""
        self._access, self.sha256 = access, None
        target = RemoteFile(manifest.model, file, f"{url}{path_of(manifest, piece.file)}")
        try:
            yield from self.read(target, piece.start, piece.length)
        except NoRanges as wrong:
            raise Interrupted("it sends more than was asked for") from wrong
        except NotCertified as wrong:
            raise Interrupted(f"{wrong}") from wrong

    def _request(self, target: RemoteFile, headers: dict[str, str]) -> HTTPResponse:
        """Follows no redirect: a host sends its own pieces."""
        return self._get(target.url, target, headers)

    def _authorization(self, where: SplitResult, target: RemoteFile) -> dict[str, str]:  # noqa: ARG002 as its base
        assert self._access is not None
        return {"Authorization": f"Bearer {self._token_for(self._access)}"}

    def _proxy(self, where: SplitResult) -> None:
        """None: they share a network."""

    def _checked(self, target: RemoteFile, response: HTTPResponse) -> HTTPResponse:  # noqa: ARG002 as its base
        if response.status not in (200, 206):
            self._close()
            raise Interrupted(f"it answers {response.status} {response.reason}")
        self.sha256 = response.getheader(PIECE_SHA256)
        return response


def path_of(manifest: Manifest, file: int) -> str:
    """Of one file's pieces at a data plane."""
    return f"/m/{manifest.model}/{manifest.name}/{file}"
