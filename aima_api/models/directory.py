"""A directory of one host as the source of a model: its files with their digests, read on a machine that sees it.

Workers follow no symbolic link in it, so that one is refused here, and not only by the first fetch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from aima_api.models.hub import CONFIG, MOST_READ, Repository
from aima_core.domain.models import FileContent, Source
from aima_core.errors import SourceUnusable


def look(source: Source, *, model: str) -> Repository:  # noqa: ARG001 as of the other origins
    """Without hidden files and directories. Raises SourceUnusable."""
    root, files = Path(source.where), dict[str, int]()
    try:
        for where, directories, names in os.walk(root, onerror=_raise):
            directories[:] = [each for each in directories if not each.startswith(".")]
            for each in (Path(where, name) for name in (*directories, *names) if not name.startswith(".")):
                if each.is_symlink():
                    remedy = f"Copy the files instead, such as with `cp -rL {root} DIRECTORY`."
                    raise _unusable(source, f"{each} is a symbolic link, and hosts follow none", remedy)
                if each.is_file():
                    files[str(each.relative_to(root))] = each.stat().st_size
        config = (root / CONFIG).read_bytes() if files.get(CONFIG, MOST_READ + 1) <= MOST_READ else None
    except OSError as failed:
        raise _unreadable(source, failed) from failed
    return Repository(source.revision, files, config=config)


def contents_of(source: Source, paths: Iterable[str]) -> dict[str, FileContent]:
    """Reads these files. Raises SourceUnusable."""
    contents = dict[str, FileContent]()
    for path in sorted(paths):
        try:
            with Path(source.where, path).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                contents[path] = FileContent(size=file.tell(), sha256=digest)
        except OSError as failed:
            raise _unreadable(source, failed) from failed
    return contents


def _raise(failed: OSError) -> None:
    raise failed


def _unreadable(source: Source, failed: OSError) -> SourceUnusable:
    remedy = f"Run this on {source.revision}, or on a machine that sees the same directory, as a user who may read it."
    return _unusable(source, f"{failed.filename or source.where}: {failed.strerror}", remedy)


def _unusable(source: Source, detail: str, remedy: str) -> SourceUnusable:
    return SourceUnusable(source=f"file:{source.where}@{source.revision}", detail=detail, remedy=remedy)
