"""Reads a model's files from a directory of this host, in the place of an origin; other hosts get them from hosts.

The directory must lie below a model root, and no symbolic link is followed: a `source` in the catalog cannot have the
worker read anything else. What is read is verified, journalled and published as downloaded bytes are.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from aima_core.domain.ids import HostName
from aima_core.domain.models import Source
from aima_core.errors import SourceFilesChanged
from aima_worker.directories import closing, opened_beneath
from aima_worker.models.origin import CHUNK, SILENCE, Interrupted, OriginClient, RemoteFile

OpenDirectory = Callable[[str], AbstractContextManager[int]]
"""Opens the directory at a path below a model root of this host. Raises as `resolve_model` does."""


class DirectoryClient(OriginClient):
    """The descriptors of one thread."""

    def __init__(self, source: Source, *, host: HostName, open_directory: OpenDirectory) -> None:
        super().__init__(host=host, token=None, stall=SILENCE)
        self._source = source
        self._open_directory = open_directory
        self._directory: int | None = None
        self._opened = ExitStack()

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def read(self, target: RemoteFile, start: int, length: int) -> Iterator[memoryview]:
        """Raises SourceFilesChanged, ModelPathMissing, ModelPathOutside, ModelPathUnsafe, Interrupted once aborted."""
        if self._directory is None:
            self._directory = self._opened.enter_context(self._open_directory(self._source.where))
        try:
            with self._opened_file(self._directory, target) as descriptor:
                at, end = start, start + length
                while at < end:
                    if self._aborted:
                        raise Interrupted("the fetch is cancelled")
                    read = os.preadv(descriptor, [self._buffer[: min(CHUNK, end - at)]], at)
                    if not read:
                        raise files_changed(self._source, target, "it is shorter")
                    at += read
                    yield self._buffer[:read]
        except OSError as failed:
            raise files_changed(self._source, target, failed.strerror or str(failed)) from failed

    @contextmanager
    def _opened_file(self, directory: int, target: RemoteFile) -> Iterator[int]:
        """Of the manifest's size. Raises OSError, ELOOP for a symbolic link, SourceFilesChanged."""
        parent, _, name = target.file.path.rpartition("/")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a named pipe would block
        with opened_beneath(directory, parent or ".") as within, closing(os.open(name, flags, dir_fd=within)) as found:
            facts = os.fstat(found)
            if not stat.S_ISREG(facts.st_mode):
                raise files_changed(self._source, target, "it is no regular file")
            if facts.st_size != target.file.size:
                raise files_changed(self._source, target, f"it has {facts.st_size} bytes instead of {target.file.size}")
            yield found


def files_changed(source: Source, target: RemoteFile, detail: str) -> SourceFilesChanged:
    text = f"file:{source.where} --host {source.revision}"
    return SourceFilesChanged(
        model=target.model, path=source.where, host=source.revision, detail=f"{target.file.path}: {detail}", source=text
    )
