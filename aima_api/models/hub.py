"""Hugging Face, or a mirror of it: the files of a repository at a commit, with their digests.

Large files have a SHA-256 there. Small ones have the id of a Git blob only, so they are read and hashed here; those of
a gated repository, which takes a token that API nodes do not have, are pinned by that id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import httpx2
from pydantic import ByteSize

from aima_core.domain.models import ManifestFile, Source, chosen
from aima_core.errors import AimaError, OriginUnreachable, SourceDenied, SourceUnknown, SourceUnusable

if TYPE_CHECKING:  # it takes a fifth of a second to import
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

TIMEOUT = timedelta(seconds=15)
MOST_READ = ByteSize(8 << 20)
"""Of one small file; a larger one is pinned by the id of its Git blob."""
CONFIG = "config.json"
_LOCK = Lock()


class Resolved(NamedTuple):
    revision: str
    """A commit."""
    files: list[ManifestFile]


class Repository(NamedTuple):
    """What a repository says of itself, at a commit."""

    revision: str
    files: Mapping[str, int]
    """Bytes by path."""
    licence: str | None = None
    gated: bool = False
    task: str | None = None
    """Such as `text-generation`."""
    config: bytes | None = None
    """Its config.json; None if there is none, or it takes a token."""


def resolve(source: Source, patterns: tuple[str, ...], *, model: str) -> Resolved:
    """Raises SourceUnknown, SourceDenied, SourceUnusable, OriginUnreachable, and ValidationError for a hostile path."""
    with _opened(source, model) as found:
        siblings = [each for each in found.siblings or () if chosen(each.rfilename, patterns)]
        return Resolved(found.sha or "", [*_files(source, found.sha or "", siblings)])


def look(source: Source, *, model: str) -> Repository:
    """Raises SourceUnknown, SourceDenied, SourceUnusable, OriginUnreachable."""
    with _opened(source, model) as found:
        files = {each.rfilename: each.lfs.size if each.lfs else each.size or 0 for each in found.siblings or ()}
        commit, gated = found.sha or "", found.gated not in (None, False)
        config = _read(source, commit, CONFIG) if files.get(CONFIG, MOST_READ + 1) <= MOST_READ else None
        named = (tag.partition(":")[2] for tag in found.tags or () if tag.startswith("license:"))
        return Repository(commit, files, next(named, None), gated, found.pipeline_tag, config)


@contextmanager
def _opened(source: Source, model: str) -> Iterator[ModelInfo]:
    """The repository at its revision, and the session of its files. Raises as `resolve`."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    hub = HfApi(endpoint=source.endpoint, token=False)
    try:
        with _session():
            yield hub.model_info(
                source.where, revision=source.revision, files_metadata=True, timeout=TIMEOUT.total_seconds()
            )
    except HFValidationError as wrong:
        raise SourceUnusable(source=source.where, detail=f"{wrong}".rstrip("."), remedy="Correct its name.") from wrong
    except (httpx2.HTTPError, OSError) as failed:
        raise _failure(source, model, failed) from failed


@contextmanager
def _session() -> Iterator[None]:
    """Locked: the library has one session for all threads, which would keep its connections open."""
    from huggingface_hub import close_session

    with _LOCK:
        try:
            yield
        finally:
            close_session()


def _files(source: Source, commit: str, siblings: list[RepoSibling]) -> Iterator[ManifestFile]:
    for each in siblings:
        path, size = each.rfilename, each.size or 0
        if each.lfs is not None:
            yield ManifestFile(path=path, size=each.lfs.size, sha256=each.lfs.sha256)
            continue
        content = _read(source, commit, path) if size <= MOST_READ else None
        if content is None:
            yield ManifestFile(path=path, size=size, git=each.blob_id)
        else:
            yield ManifestFile(path=path, size=len(content), sha256=sha256(content).hexdigest())


def _read(source: Source, commit: str, path: str) -> bytes | None:
    """None for a file that takes a token. Raises HTTPError."""
    from huggingface_hub import get_session, hf_hub_url

    url = hf_hub_url(source.where, path, revision=commit, endpoint=source.endpoint)
    with get_session().stream("GET", url, timeout=TIMEOUT.total_seconds()) as response:
        if response.status_code in (401, 403):
            return None
        response.raise_for_status()
        content = b""
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > MOST_READ:
                return None
        return content


def _failure(source: Source, model: str, failed: Exception) -> AimaError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    origin = httpx2.URL(source.endpoint).host
    if isinstance(failed, GatedRepoError):
        remedy = "Accept its terms there. If the repository itself is private, use a public one, or a mirror of it."
        return SourceDenied(origin=origin, what=source.where, detail="it is gated.", remedy=remedy)
    if isinstance(failed, RepositoryNotFoundError):
        return SourceUnknown(origin=origin, what=f"repository {source.where}", model=model)
    if isinstance(failed, RevisionNotFoundError):
        return SourceUnknown(origin=origin, what=f"revision {source.revision} of {source.where}", model=model)
    detail = str(failed).partition("\n")[0] or type(failed).__name__
    return OriginUnreachable(origin=origin, detail=f"{detail.rstrip('.')}.", where="this API node")
