"""The fetch of one model: threads download pieces, one thread hashes the files behind them, and the whole is published.

A file counts as verified once its digest is that of the signed manifest; the model is published atomically once all of
them are. After a cancel, a crash or a restart of the worker, the next fetch resumes with the journalled pieces. A full
disk removes them.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from hashlib import sha1, sha256
from threading import Event as Flag
from threading import Lock, Thread
from typing import Any, NamedTuple, TypeVar

import structlog

from aima_core.domain.ids import HostName
from aima_core.domain.models import FetchProgress, Manifest, ManifestFile, Source
from aima_core.domain.units import format_duration, format_size
from aima_core.errors import AimaError, Cancelled, ModelDiskFull, ModelStoreUnusable, NoHostSends, WrongBytes
from aima_core.settings import Settings
from aima_core.store.fetching import Found
from aima_core.trust.peers import PiecesOf
from aima_worker.models.directory import DirectoryClient, OpenDirectory, files_changed
from aima_worker.models.origin import Interrupted, NoRanges, OriginClient, Patience, RemoteFile
from aima_worker.models.peers import PeerClient
from aima_worker.models.pieces import PIECE_SIZE, Download, Piece, PieceQueue
from aima_worker.models.sharing import PEER_CONNECTIONS, Neighbours, SharedFetch
from aima_worker.models.store import ModelStore, PartialModel
from aima_worker.node.disk_guard import disk_levels
from aima_worker.transfers import RateLimit, RateWindow

PROGRESS_INTERVAL = timedelta(seconds=0.2)
JOURNALLED_EVERY = 1 << 20
"""Bytes of a piece: what a kill costs each connection at most."""
CHANCES = 2
"""Downloads of a file before its bytes count as wrong at the origin."""

AClient = TypeVar("AClient", bound=OriginClient)

_log = structlog.get_logger()


class FetchOrder(NamedTuple):
    """The manifest and the token of a fetch; concurrent operations with the same content share it."""

    manifest: Manifest
    token: str | None


class ModelFetch:
    """A transfer: iterated by one thread, closed from any thread. Its own threads end with it."""

    def __init__(
        self,
        store: ModelStore,
        order: FetchOrder,
        settings: Settings,
        neighbours: Neighbours | None = None,
        *,
        open_directory: OpenDirectory,
    ) -> None:
        """Without neighbours, it downloads from the origin alone. `open_directory` opens a source on this host."""
        self._store = store
        self._neighbours = neighbours
        self._order = order
        self._settings = settings
        self._host: HostName = settings.host.name
        self._open_directory = open_directory
        self._source = Source.parse(order.manifest.source)
        self._has_origin = self._source.host in (None, self._host)
        """False on all hosts but the one whose directory is the source: these get every piece from other hosts."""
        self._connections = settings.host.model_connections if self._has_origin else 0
        """To the origin."""
        self._stop = Flag()
        self._ended = Flag()
        self._failure: AimaError | None = None
        self._lock = Lock()
        self._clients: list[OriginClient] = []
        self._arriving: dict[Piece, int] = {}
        """Bytes of pieces that are not journalled yet."""
        self._arrived = 0
        """Bytes received by this fetch."""
        self._from_hosts = 0
        self._verified = 0
        self._files_done = 0
        self._vouched: dict[Piece, Found] = {}
        """Pieces that other hosts have sent, whose digests a host has published."""
        self._suspected: dict[Piece, Found] = {}
        """Those of a file that differs, which the origin sends again."""
        self._notice: str | None = None
        self._shared: SharedFetch | None = None
        self._origin_rate = RateLimit(self._rate_from_origin, stop=self._ended)
        self._window = RateWindow()

    def close(self) -> None:
        self._stop.set()
        self._halt()

    def __iter__(self) -> Iterator[FetchProgress]:
        """Raises Cancelled after `close`, ModelDiskFull, ModelStoreUnusable, WrongBytes, and what an origin raises."""
        if self._store.find(self._order.manifest):
            return
        with self._store.fetching(self._order.manifest, self._stop) as partial:
            if self._store.find(self._order.manifest):  # race: another fetch has published it
                self._store.abandon(partial)
                return
            try:
                yield from self._fetch(partial)
            except (OSError, ModelDiskFull) as failed:
                failure = self._disk_failure(failed) if isinstance(failed, OSError) else failed
                if isinstance(failure, ModelDiskFull):
                    self._store.abandon(partial)
                raise failure from failed

    def _fetch(self, partial: PartialModel) -> Iterator[FetchProgress]:
        self._partial, self._files = partial, partial.files
        self._targets = [
            RemoteFile(partial.manifest.model, file, partial.manifest.url_of(file)) for file in self._files
        ]
        self._patience = Patience(
            partial.manifest.model, host=self._host, stall=self._settings.host.model_stall, stop=self._ended
        )
        self._queue = self._opened_queue(partial)
        partial.received = lambda: self._received
        others = self._store.awaited(besides=partial.manifest)
        self._check_disk(missing=partial.manifest.size - self._queue.held + others)
        for file in self._files:
            if file not in partial.linked:
                partial.create(file)
        threads = [
            Thread(target=self._download, name=f"download {number}", daemon=True) for number in range(self._width)
        ]
        if self._neighbours is not None:
            self._shared = SharedFetch(
                self._neighbours,
                partial.manifest,
                self._queue,
                connections=self._connections,
                journal=partial.journal,
            )
            self._shared.start()
        threads.append(Thread(target=self._verify, name="verify", daemon=True))
        for thread in threads:
            thread.start()
        published = False
        try:
            yield from self._until_ended(threads)
            if self._failure is not None:
                raise self._failure
            if self._stop.is_set():
                raise Cancelled
            self._store.publish(partial)
            published = True
        finally:
            if self._shared is not None:
                self._shared.stop(complete=published)
        yield self._progress()

    def _until_ended(self, threads: Sequence[Thread]) -> Iterator[FetchProgress]:
        """Raises ModelDiskFull, NoHostSends."""
        try:
            yield self._progress()  # the rate of a fetch counts from here
            while not self._ended.wait(PROGRESS_INTERVAL.total_seconds()):
                yield self._progress()
                self._check_disk(missing=0)
                self._check_senders()
        finally:
            self._halt()
            for thread in threads:
                thread.join()

    @property
    def _width(self) -> int:
        missing = sum(
            not self._queue.is_there(piece) for number in range(len(self._files)) for piece in self._queue.of(number)
        )
        connections = self._connections + (PEER_CONNECTIONS if self._neighbours else 0)
        return max(1, min(connections, missing))

    @property
    def _received(self) -> int:
        return self._queue.held + sum(list(self._arriving.values()))

    def _opened_queue(self, partial: PartialModel) -> PieceQueue:
        """The queue without pieces that were journalled before a restart, and without linked files."""
        queue = PieceQueue(self._files, ())
        linked = (number for number, file in enumerate(self._files) if file in partial.linked)
        there = [piece for number in linked for piece in queue.of(number)]
        journal = partial.journal
        for piece in [*journal.hashes, *journal.prefixes]:
            if not partial.path(self._files[piece.file]).exists():
                journal.forget(piece)
        self._arriving = {piece: prefix.length for piece, prefix in journal.prefixes.items()}
        return PieceQueue(
            self._files,
            {*there, *journal.hashes},
            connections=self._connections,
            alone=self._neighbours is None,
        )

    # Downloads ------------------------------------------------------------------------------------------------------

    def _download(self) -> None:
        with self._failing_together(), self._client() as origin, self._peer_client() as peers:
            for download in self._queue.take():
                if peers is not None and download.source is not None:
                    self._download_from_host(peers, download)
                    continue
                try:
                    self._download_from_origin(origin, download.piece)
                except NoRanges:
                    if self._queue.take_file(download.piece.file):
                        self._download_whole(origin, download.piece.file)

    def _client(self) -> OriginClient:
        if self._source.host == self._host:
            return self._opened(DirectoryClient(self._source, host=self._host, open_directory=self._open_directory))
        stall = self._settings.host.model_stall
        return self._opened(OriginClient(host=self._host, token=self._order.token, stall=stall))

    def _peer_client(self) -> AbstractContextManager[PeerClient | None]:
        if self._neighbours is None:
            return nullcontext()
        ca = self._settings.dataplane.ca
        return self._opened(PeerClient(host=self._host, token_for=self._neighbours.token, ca=ca))

    def _opened(self, client: AClient) -> AClient:
        with self._lock:
            self._clients.append(client)
        return client

    def _download_from_origin(self, client: OriginClient, piece: Piece) -> None:
        """Raises NoRanges."""
        target = self._targets[piece.file]
        kept = self._kept_prefix(piece, target.file)
        hashed, done, journalled = sha256(kept), len(kept), len(kept)
        with self._partial.opened(target.file, write=True) as descriptor:
            for chunk in client.read_on(target, piece.start + done, piece.length - done, self._patience):
                self._write(descriptor, chunk, piece.start + done)
                hashed.update(chunk)
                done += len(chunk)
                self._has_arrived(piece, done, len(chunk))
                if done - journalled >= JOURNALLED_EVERY:
                    self._partial.journal.record(piece, done, hashed.hexdigest())
                    journalled = done
                self._origin_rate.wait(len(chunk))
            self._journal(descriptor, piece, hashed.hexdigest())
        self._check_publisher(piece, hashed.hexdigest())

    def _download_from_host(self, client: PeerClient, download: Download) -> None:
        """Puts the piece back if the host does not send it, or sends wrong bytes."""
        piece, shared, manifest = download.piece, self._shared, self._partial.manifest
        assert shared is not None
        assert download.source is not None
        file, source, at = self._files[piece.file], download.source, 0
        hashed = sha256()
        try:
            with self._partial.opened(file, write=True) as descriptor:
                access = PiecesOf(source, manifest.digest)
                for chunk in client.read_piece(access, shared.url_of(source), manifest, file, piece):
                    self._write(descriptor, chunk, piece.start + at)
                    hashed.update(chunk)
                    at += len(chunk)
                    self._from_hosts += len(chunk)
                    self._has_arrived(piece, at, len(chunk))
                digest = hashed.hexdigest()
                if digest == (download.sha256 or client.sha256):
                    self._vouched[piece] = Found(digest, download.publisher or source)
                    self._journal(descriptor, piece, digest)
                    shared.succeeded(source)
                    return
        except Interrupted as failed:
            if not self._ended.is_set():
                shared.failed(source, failed.why)
        else:
            self._avoid(source, f"{source} has sent wrong bytes of {file.path}")
        with self._lock:
            self._arriving.pop(piece, None)
        self._queue.put_back([piece])

    def _check_publisher(self, piece: Piece, digest: str) -> None:
        """A host that vouched for other bytes than the origin sends is asked for nothing more."""
        before, publisher = self._suspected.pop(piece, Found(digest, self._host))
        if before != digest and self._shared is not None:
            self._shared.correct(piece, digest)
            self._avoid(publisher, f"{publisher} has published wrong bytes of {self._files[piece.file].path}")

    def _avoid(self, host: HostName, why: str) -> None:
        _log.warning("host avoided", model=self._order.manifest.model, host=host, reason=why)
        self._notice = f"{why}: this fetch takes nothing more from it."
        if self._shared is not None:
            self._shared.avoid(host)

    def _rate_from_origin(self) -> float | None:
        """Bytes per second; None for a directory of this host."""
        if self._source.host is not None:
            return None
        host, site = self._settings.host.model_rate, self._settings.host.site_model_rate
        share = self._shared.share if self._shared else 1.0
        return min((rate for rate in (host, site and site * share) if rate), default=None)

    def _kept_prefix(self, piece: Piece, file: ManifestFile) -> bytes:
        """The journalled prefix, for a retry; nothing if its bytes are stale, such as after a crash of the machine."""
        prefix = self._partial.journal.prefixes.pop(piece, None)
        content = b""
        if prefix is not None:
            with self._partial.opened(file) as descriptor:
                content = os.pread(descriptor, prefix.length, piece.start)
            if sha256(content).hexdigest() != prefix.sha256:
                content = b""
        with self._lock:
            self._arriving[piece] = len(content)
        return content

    def _download_whole(self, client: OriginClient, number: int) -> None:
        """From an origin without ranges: a retry reads the file again, and writes the missing pieces only."""
        target = self._targets[number]
        pieces = {piece.start: piece for piece in self._queue.of(number)}
        with self._partial.opened(target.file, write=True) as descriptor:
            for start, block in client.read_blocks(target, PIECE_SIZE, self._patience):
                if not self._queue.is_there(piece := pieces[start]):
                    self._write(descriptor, block, start)
                    self._has_arrived(piece, len(block), len(block))
                    self._journal(descriptor, piece, sha256(block).hexdigest())

    def _write(self, descriptor: int, content: bytes | memoryview, at: int) -> None:
        if self._ended.is_set():
            raise Cancelled
        self._partial.write(descriptor, content, at)

    def _journal(self, descriptor: int, piece: Piece, digest: str) -> None:
        os.fdatasync(descriptor)
        self._partial.journal.record(piece, piece.length, digest)
        if self._shared is not None:  # first: a piece without a lease and without a digest would be leased again
            self._shared.completed(piece, self._vouched.get(piece, Found(digest, self._host)))
        self._queue.add(piece)
        with self._lock:
            self._arriving.pop(piece, None)

    def _has_arrived(self, piece: Piece, done: int, more: int) -> None:
        self._patience.moved()
        with self._lock:
            self._arriving[piece] = min(done, piece.length)
            self._arrived += more

    # Verification ---------------------------------------------------------------------------------------------------

    def _verify(self) -> None:
        with self._failing_together():
            for number, file in enumerate(self._files):
                self._verify_file(number, file)
            self._halt()

    def _verify_file(self, number: int, file: ManifestFile) -> None:
        found = ""
        for _ in range(CHANCES + bool(self._neighbours)):
            found = self._digest(number, file)
            if found != file.digest and self._requeue_damaged(number, file):
                found = self._digest(number, file)
            if found == file.digest:
                self._verified += file.size
                self._files_done += 1
                return
            _log.warning("file of a model differs", model=self._order.manifest.model, file=file.path, found=found)
            if self._refetch_published(number):
                continue
            self._partial.discard(file)
            for piece in self._queue.of(number):
                self._partial.journal.forget(piece)
            self._queue.put_back(self._queue.of(number), from_origin_only=self._has_origin)
        target = self._targets[number]
        detail = f"they have the digest {found} instead of {file.digest}"
        if self._source.host == self._host:
            raise files_changed(self._source, target, f"it has the digest {found} instead of {file.digest}")
        raise WrongBytes(origin=target.origin, file=file.path, model=target.model, detail=detail, host=self._host)

    def _refetch_published(self, number: int) -> bool:
        """Requeues the pieces of a file that other hosts vouch for; False if there are none.

        Without an origin to compare them with, all of these hosts are avoided, except the one whose directory it is.
        """
        pieces = [piece for piece in self._queue.of(number) if piece in self._vouched]
        for piece in pieces:
            self._suspected[piece] = self._vouched.pop(piece)
            self._partial.journal.forget(piece)
        if not self._has_origin:
            self._patience.moved()
            for host in {self._suspected.pop(piece).publisher for piece in pieces} - {self._source.host}:
                self._avoid(host, f"{host} may have published wrong bytes of {self._files[number].path}")
        self._queue.put_back(pieces, from_origin_only=self._has_origin)
        return bool(pieces)

    def _requeue_damaged(self, number: int, file: ManifestFile) -> bool:
        """Requeues the pieces of an earlier fetch whose bytes are stale, such as after a crash of the machine."""
        earlier = {piece: self._partial.journal.hashes.pop(piece, None) for piece in self._queue.of(number)}
        damaged = [piece for piece, known in earlier.items() if known and known != self._digest_of(piece, file)]
        for piece in damaged:
            _log.warning("piece of a model damaged on disk", file=file.path, piece=piece.number)
            self._partial.journal.forget(piece)  # else the data plane would send it to other hosts
        self._queue.put_back(damaged)
        return bool(damaged)

    def _digest_of(self, piece: Piece, file: ManifestFile) -> str:
        hashed = sha256()
        for chunk in self._partial.read(file, piece):
            hashed.update(chunk)
        return hashed.hexdigest()

    def _digest(self, number: int, file: ManifestFile) -> str:
        """Of the file's bytes, read by this thread behind the threads that download. Raises Cancelled."""
        hashed: Any = sha256() if file.sha256 else sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
        for piece in self._queue.of(number):
            if not self._queue.wait_for(piece):
                raise Cancelled
            for chunk in self._partial.read(file, piece):
                hashed.update(chunk)
            if file in self._partial.linked:  # by which other hosts check it
                self._partial.journal.record(piece, piece.length, self._digest_of(piece, file))
        return str(hashed.hexdigest()) if file.sha256 else f"git-{hashed.hexdigest()}"

    # Ends -----------------------------------------------------------------------------------------------------------

    @contextmanager
    def _failing_together(self) -> Iterator[None]:
        """The error boundary of a thread: the first failure counts, and ends all of them."""
        try:
            yield
        except AimaError as failed:
            self._fail(failed)
        except OSError as failed:
            self._fail(self._disk_failure(failed))
        except Exception as bug:  # noqa: BLE001 the thread's boundary
            _log.exception("fetch failed by a bug")
            self._fail(AimaError(detail=f"{type(bug).__name__}: {bug}"))

    def _fail(self, failure: AimaError) -> None:
        with self._lock:
            if not self._ended.is_set():
                self._failure = failure
        self._halt()

    def _disk_failure(self, failed: OSError) -> AimaError:
        detail = failed.strerror or str(failed)
        if failed.errno == errno.ENOSPC:
            return self._disk_full(detail)
        return ModelStoreUnusable(host=self._host, store=self._store.root, detail=detail)

    def _halt(self) -> None:
        self._ended.set()
        queue: PieceQueue | None = getattr(self, "_queue", None)
        if queue is not None:
            queue.close()
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            client.abort()

    def _check_disk(self, *, missing: int) -> None:
        """Raises ModelDiskFull if the missing bytes do not fit above the reserve."""
        usage = shutil.disk_usage(self._store.root)
        reserve = disk_levels(self._settings.host, usage.total).reserve
        if (lacking := missing + reserve - usage.free) > 0:
            self._store.make_room(self._order.manifest.model, lacking)
            usage = shutil.disk_usage(self._store.root)
        if usage.free < missing + reserve:
            needs = f"{format_size(missing)} are to be fetched, " if missing else ""
            detail = f"{needs}{format_size(usage.free)} are free, and {format_size(reserve)} of them are reserved"
            raise self._disk_full(detail)

    def _check_senders(self) -> None:
        """Raises NoHostSends after the stall timeout without a byte, on a host that no origin sends the rest to."""
        if self._has_origin or self._queue.held == self._order.manifest.size or not self._patience.has_expired:
            return
        stall, model = format_duration(self._settings.host.model_stall), self._order.manifest.model
        raise NoHostSends(model=model, host=self._host, stall=stall, at=self._source.revision)

    def _disk_full(self, detail: str) -> ModelDiskFull:
        return ModelDiskFull(host=self._host, model=self._order.manifest.model, detail=detail, store=self._store.root)

    def _awaited(self, received: int) -> str | None:
        awaited = self._shared.waits_for if self._shared else None
        if awaited is None and not self._has_origin and received < self._order.manifest.size:
            return f"files that {self._source.revision} has, and sends once it has fetched them"
        return awaited

    def _progress(self) -> FetchProgress:
        now, received = time.monotonic(), self._received
        self._window.add(self._arrived, now=now)
        rate = self._window.rate(self._arrived, now=now) or None
        left = self._order.manifest.size - received
        eta = timedelta(seconds=round(left / rate, 1)) if rate and left else None
        return FetchProgress(
            model=self._order.manifest.model,
            received=received,
            verified=self._verified,
            total=self._order.manifest.size,
            files_done=self._files_done,
            files=len(self._files),
            rate=rate,
            eta=eta,
            waits_for=self._patience.waits_for or (self._awaited(received) if not rate else None),
            from_hosts=self._from_hosts,
            notice=self._notice,
        )
