"""The model store of this host: a directory that only the worker writes, below which engines may read.

Files of equal content are hard links to one another. A file that has changed since is stale: its model is not mounted,
and the next fetch replaces it. A crash leaves a model published as a whole, or not at all.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from secrets import token_hex
from threading import Event as Flag
from threading import Lock
from typing import NamedTuple

import structlog

from aima_core.domain.ids import HostName, ModelId
from aima_core.domain.models import Manifest, ManifestFile, ModelOnHost
from aima_core.errors import Cancelled, ModelStoreUnusable
from aima_core.system.state_dir import write_atomically
from aima_worker.directories import closing
from aima_worker.models.layout import FETCHING, FILES, JOURNAL, RECORD, StoredModel, place_of, record_of
from aima_worker.models.pieces import Journal, Piece
from aima_worker.models.uses import ModelUses, key_of

REMOVED = ".removed"
MOST_LISTED = 200
"""Announced: every listing of hosts carries them."""
LOCK_POLL = timedelta(seconds=0.2)
READ_AT_ONCE = 1 << 20
"""Bytes."""
_DIRECTORY, _READ_ONLY_DIRECTORY, _READ_ONLY_FILE = 0o755, 0o555, 0o444

_log = structlog.get_logger()


class StoredPlace(NamedTuple):
    """A directory of the store: of a published model, or of a running or interrupted fetch."""

    path: Path
    manifest: Manifest
    published: bool

    @property
    def touched_at(self) -> float:
        """When it was published, or the fetch last journalled a piece; seconds since the epoch."""
        names = (RECORD,) if self.published else (JOURNAL, RECORD)
        return max((found.st_mtime for name in names if (found := _lstat(self.path / name))), default=0.0)


class ModelStore:
    """For several threads."""

    def __init__(self, root: Path, *, host: HostName) -> None:
        self.root = root
        self.changed: Callable[[], None] = lambda: None
        """Called when a model was published, removed or pinned; set by the composition root."""
        self.make_room: Callable[[ModelId, int], None] = lambda _, __: None
        """Collects models that nothing uses for a fetch that lacks so many bytes; set by the composition root."""
        self.uses = ModelUses(root)
        self._host = host
        self._locks: dict[str, Lock] = {}
        self._lock = Lock()
        self._partial: dict[str, PartialModel] = {}

    def find(self, manifest: Manifest) -> str | None:
        """The published directory of its files, relative to the root; None if there is none, or a file has changed."""
        place = self._place(manifest)
        stored = record_of(place)
        if stored is None or stored.manifest.digest != manifest.digest or not _is_unaltered(place / FILES, stored):
            return None
        return str((place / FILES).relative_to(self.root))

    def listing(self) -> tuple[ModelOnHost, ...]:
        """A snapshot: published models, then interrupted or running fetches."""
        pinned = self.uses.pins()
        found = [_listed(place, stored) for place, stored in self._published()]
        with self._lock:
            running = {name: each.received() for name, each in self._partial.items()}
        for place, stored in self._records(self.root / FETCHING):
            manifest = stored.manifest
            received = running.get(manifest.digest)
            if received is None:
                found.append(_on_host(place, manifest, received=_journalled(place, manifest)))
            else:
                found.append(_on_host(place, manifest, received=received, fetching=True))
        return tuple(self._with_uses(each, pinned) for each in found[:MOST_LISTED])

    def places(self) -> list[StoredPlace]:
        """Every directory with a readable record."""
        published = [StoredPlace(place, stored.manifest, published=True) for place, stored in self._published()]
        fetches = self._records(self.root / FETCHING)
        return [*published, *(StoredPlace(place, stored.manifest, published=False) for place, stored in fetches)]

    def awaited(self, *, besides: Manifest | None = None) -> int:
        """Bytes that running fetches have still to write, those of other content than `besides`."""
        own = besides and besides.digest
        with self._lock:
            running = [each for digest, each in self._partial.items() if digest != own]
        return sum(each.manifest.size - each.received() for each in running)

    @contextmanager
    def fetching(self, manifest: Manifest, stop: Flag) -> Iterator[PartialModel]:
        """The directory of a fetch, locked: a concurrent fetch of the same content waits until this one has ended.

        Raises ModelStoreUnusable, Cancelled.
        """
        with self._lock:
            lock = self._locks.setdefault(manifest.digest, Lock())
        while not lock.acquire(timeout=LOCK_POLL.total_seconds()):
            if stop.is_set():
                raise Cancelled
        try:
            partial = self._open(manifest)
            try:
                with self._lock:
                    self._partial[manifest.digest] = partial
                yield partial
            finally:
                with self._lock:
                    del self._partial[manifest.digest]
                partial.close()
        finally:
            lock.release()

    def publish(self, partial: PartialModel) -> None:
        """Atomically, by one rename; replaces a stale directory of this name. Raises ModelStoreUnusable."""
        manifest, place = partial.manifest, self._place(partial.manifest)
        with self._usable():
            verified = {file.path: partial.protect(file) for file in partial.files}
            stored = StoredModel(manifest=manifest, verified=verified)
            write_atomically(partial.place / RECORD, stored.model_dump_json(), mode=_READ_ONLY_FILE)
            if place.exists():
                self.discard(self.withdraw(place))
            with self._lock:  # race: the removal of another revision, which removes an empty parent
                _make(place.parent)
                partial.place.rename(place)
            _sync(place.parent)
        self.changed()

    def abandon(self, partial: PartialModel) -> None:
        """Removes a fetch with its journal, such as on a full disk; a retry starts from zero."""
        _remove(partial.place)

    @contextmanager
    def unless_fetching(self, manifest: Manifest, *, within: timedelta = timedelta()) -> Iterator[bool]:
        """Locks out fetches of its content while inside; False if one runs, and does not end `within`."""
        with self._lock:
            lock = self._locks.setdefault(manifest.digest, Lock())
        idle = lock.acquire(timeout=within.total_seconds())
        try:
            yield idle
        finally:
            if idle:
                lock.release()

    def withdraw(self, place: Path) -> Path:
        """Renames it to where nothing reads it, atomically: a crash while its files are removed leaves no half of it.

        `discard` removes them. Raises ModelStoreUnusable.
        """
        away = self.root / f"{REMOVED}-{place.parent.name}-{place.name}-{token_hex(4)}"
        with self._usable():
            place.rename(away)  # beside the models: a full disk may have no room for another directory
        with self._lock, suppress(OSError):
            place.parent.rmdir()
        return away

    def discard(self, away: Path) -> int:
        """Removes a withdrawn directory; returns the bytes freed."""
        freed = freed_by(away, {})
        _remove(away)
        return freed

    def sweep(self) -> None:
        """At the start of a worker: removes what a crash during a removal has left."""
        for away in self.root.glob(f"{REMOVED}*"):
            _remove(away)

    def _open(self, manifest: Manifest) -> PartialModel:
        place = place_of(self.root, manifest.model, manifest.name, published=False)
        with self._usable():
            self._check_own()
            known = record_of(place)
            if known is None or known.manifest.digest != manifest.digest:
                _remove(place)
                with self._lock:  # as at the publication
                    _make(place / FILES)
                stored = StoredModel(manifest=manifest)
                write_atomically(place / RECORD, stored.model_dump_json())
            _make_writable(place)
            partial = PartialModel(place, manifest)
            partial.journal.open()
            partial.linked = {file for file in partial.files if self._link(file, partial)}
            return partial

    def _link(self, file: ManifestFile, partial: PartialModel) -> bool:
        """A hard link to a published file of equal content, which the verifying thread hashes again."""
        target = partial.path(file)
        if target.exists():
            return target.stat().st_nlink > 1
        for place, stored in self._published():
            for other in stored.manifest.files:
                is_equal = (other.size, other.digest) == (file.size, file.digest)
                if is_equal and _stat(place / FILES / other.path) == stored.verified.get(other.path):
                    with suppress(OSError):  # such as too many links: it is downloaded then
                        _make(target.parent)
                        os.link(place / FILES / other.path, target, follow_symlinks=False)
                        return True
        return False

    def _check_own(self) -> None:
        """Only the worker may write there: published bytes are not hashed again at each start or restart."""
        _make(self.root)
        found = self.root.stat()
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            detail = f"others can write it (owner {found.st_uid}, mode {found.st_mode & 0o7777:04o})"
            raise ModelStoreUnusable(host=self._host, store=self.root, detail=detail)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as failed:
            if failed.errno == errno.ENOSPC:
                raise
            detail = failed.strerror or str(failed)
            raise ModelStoreUnusable(host=self._host, store=self.root, detail=detail) from failed

    def _place(self, manifest: Manifest) -> Path:
        return place_of(self.root, manifest.model, manifest.name, published=True)

    def _published(self) -> Iterator[tuple[Path, StoredModel]]:
        for place, stored in self._records(self.root):
            if stored.verified:
                yield place, stored

    def _records(self, below: Path) -> Iterator[tuple[Path, StoredModel]]:
        for path in sorted(below.glob(f"[!.]*/*/{RECORD}")):
            if stored := record_of(path.parent):
                yield path.parent, stored

    def _with_uses(self, model: ModelOnHost, pinned: Callable[[ModelId], bool]) -> ModelOnHost:
        used_at = self.uses.last_used(key_of(model)) if model.published else None
        return model.model_copy(update={"used_at": used_at, "pinned": pinned(model.model)})


class PartialModel:
    """The directory of a fetch."""

    def __init__(self, place: Path, manifest: Manifest) -> None:
        self.place = place
        self.manifest = manifest
        self.files = manifest.by_path
        """In the order of their numbers in pieces."""
        self.linked: set[ManifestFile] = set()
        """Files that are hard links to those of published models."""
        self.received: Callable[[], int] = lambda: 0
        """Bytes that are there; set by the fetch."""
        self.journal = Journal(place / JOURNAL, self.files)

    def path(self, file: ManifestFile) -> Path:
        return self.place / FILES / file.path

    def create(self, file: ManifestFile) -> None:
        """Of its full size, and without blocks until they are written."""
        path = self.path(file)
        _make(path.parent)
        if path.exists():
            path.chmod(0o600)  # read-only where a crash interrupted its publication
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with closing(os.open(path, flags, 0o600)) as descriptor:
            if os.fstat(descriptor).st_size != file.size:
                os.ftruncate(descriptor, file.size)

    def read(self, file: ManifestFile, piece: Piece) -> Iterator[memoryview]:
        """Each chunk is valid until the next. Raises OSError."""
        buffer = memoryview(bytearray(min(READ_AT_ONCE, piece.length)))
        at, end = piece.start, piece.start + piece.length
        with self.opened(file) as descriptor:
            while at < end:
                read = os.preadv(descriptor, [buffer[: end - at]], at)
                if not read:
                    raise OSError(errno.EIO, f"{file.path} cannot be read back")
                at += read
                yield buffer[:read]

    def write(self, descriptor: int, content: bytes | memoryview, at: int) -> None:
        left = memoryview(content)
        while left:
            written = os.pwrite(descriptor, left, at)
            left, at = left[written:], at + written

    def discard(self, file: ManifestFile) -> None:
        self.path(file).unlink(missing_ok=True)
        self.create(file)

    @contextmanager
    def opened(self, file: ManifestFile, *, write: bool = False) -> Iterator[int]:
        flags = (os.O_WRONLY if write else os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC
        with closing(os.open(self.path(file), flags)) as descriptor:
            yield descriptor

    def protect(self, file: ManifestFile) -> tuple[int, int]:
        """Makes it read-only, and readable by engines; returns its size and modification time."""
        path = self.path(file)
        path.chmod(_READ_ONLY_FILE)
        for directory in path.relative_to(self.place).parents:
            if directory != Path():
                (self.place / directory).chmod(_READ_ONLY_DIRECTORY)
        self.place.chmod(_DIRECTORY)
        found = path.stat()
        return found.st_size, found.st_mtime_ns

    def close(self) -> None:
        self.journal.close()


def _on_host(
    place: Path,
    manifest: Manifest,
    *,
    received: int,
    published: bool = False,
    verified: bool = False,
    fetching: bool = False,
) -> ModelOnHost:
    return ModelOnHost(
        model=manifest.model,
        revision=manifest.revision,
        name=place.name,
        size=manifest.size,
        received=received,
        published=published,
        verified=verified,
        fetching=fetching,
    )


def _listed(place: Path, stored: StoredModel) -> ModelOnHost:
    unaltered = _is_unaltered(place / FILES, stored)
    return _on_host(place, stored.manifest, received=stored.manifest.size, published=True, verified=unaltered)


def _journalled(place: Path, manifest: Manifest) -> int:
    """Bytes of an interrupted fetch. Writes nothing: models are listed on a full disk, too."""
    partial = PartialModel(place, manifest)
    linked = sum(file.size for file in partial.files if _links(partial.path(file)) > 1)
    return linked + partial.journal.bytes


def _links(path: Path) -> int:
    try:
        return path.stat().st_nlink
    except OSError:
        return 0


def _is_unaltered(directory: Path, stored: StoredModel) -> bool:
    return bool(stored.verified) and all(
        _stat(directory / path) == tuple(known) for path, known in stored.verified.items()
    )


def _stat(path: Path) -> tuple[int, int] | None:
    found = _lstat(path)
    return (found.st_size, found.st_mtime_ns) if found else None


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None


def freed_by(place: Path, links_left: dict[tuple[int, int], int]) -> int:
    """Bytes that the removal of a directory frees: a file that other directories share stays.

    `links_left` has the hard links that earlier removals leave to each device and inode; this one is counted there.
    """
    freed = 0
    for parent, _, names in os.walk(place):
        for found in filter(None, (_lstat(Path(parent) / name) for name in names)):
            inode = (found.st_dev, found.st_ino)
            links_left[inode] = left = links_left.get(inode, found.st_nlink) - 1
            freed += found.st_blocks * 512 if left == 0 else 0
    return freed


def _make(directory: Path) -> None:
    """Readable by engines whatever the umask is."""
    if not directory.is_dir():
        _make(directory.parent)
        directory.mkdir(mode=_DIRECTORY, exist_ok=True)
        directory.chmod(_DIRECTORY)


def _make_writable(directory: Path) -> None:
    """Read-only directories keep their entries, from others than root."""
    for parent, _, _ in os.walk(directory):
        with suppress(OSError):
            Path(parent).chmod(_DIRECTORY)


def _remove(directory: Path) -> None:
    _make_writable(directory)
    shutil.rmtree(directory, ignore_errors=True)


def _sync(directory: Path) -> None:
    with closing(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as descriptor:
        os.fsync(descriptor)
