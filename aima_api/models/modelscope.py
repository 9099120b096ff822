"""ModelScope by its HTTP API: the files of a repository at a commit, each with its SHA-256."""

from __future__ import annotations

import re
from typing import Any

import httpx2

from aima_api.models.hub import CONFIG, MOST_READ, TIMEOUT, Repository, Resolved
from aima_core.domain.models import ManifestFile, Source, chosen
from aima_core.errors import OriginUnreachable, SourceUnknown

_COMMIT = re.compile("[0-9a-f]{40}")


def resolve(source: Source, patterns: tuple[str, ...], *, model: str) -> Resolved:
    """Raises SourceUnknown, OriginUnreachable, and ValidationError for a hostile path."""
    with httpx2.Client(timeout=TIMEOUT.total_seconds(), follow_redirects=True) as client:
        commit, listed = _listed(client, source, model)
    files = [each for each in listed if chosen(str(each.get("Path")), patterns)]
    return Resolved(
        commit, [ManifestFile(path=each["Path"], size=each["Size"], sha256=each["Sha256"]) for each in files]
    )


def look(source: Source, *, model: str) -> Repository:
    """Without licence and task, which its listing of files does not have. Raises SourceUnknown, OriginUnreachable."""
    with httpx2.Client(timeout=TIMEOUT.total_seconds(), follow_redirects=True) as client:
        commit, listed = _listed(client, source, model)
        files = {str(each.get("Path")): int(each.get("Size") or 0) for each in listed}
        config: bytes | None = None
        if files.get(CONFIG, MOST_READ + 1) <= MOST_READ:
            try:
                answer = client.get(f"{source.endpoint}/models/{source.where}/resolve/{commit}/{CONFIG}")
            except httpx2.HTTPError as failed:
                raise _unreachable(source, failed) from failed
            config = answer.content if answer.status_code == 200 else None
    return Repository(commit, files, config=config)


def _listed(client: httpx2.Client, source: Source, model: str) -> tuple[str, list[dict[str, Any]]]:
    """The commit, and its files."""
    api, commit = f"{source.endpoint}/api/v1/models/{source.where}", source.revision
    if not source.is_pinned:
        page = {"Ref": source.revision, "PageNumber": "1", "PageSize": "1"}
        commits = _answer(client, f"{api}/commits", page, source, model).get("Commit") or [{}]
        commit = str(commits[0].get("Id", ""))
    if not _COMMIT.fullmatch(commit):
        raise SourceUnknown(origin=_origin(source), what=f"revision {source.revision} of {source.where}", model=model)
    query = {"Revision": commit, "Recursive": "true"}
    listed = _answer(client, f"{api}/repo/files", query, source, model).get("Files") or []
    return commit, [each for each in listed if each.get("Type") != "tree"]


def _answer(client: httpx2.Client, url: str, query: dict[str, str], source: Source, model: str) -> dict[str, Any]:
    try:
        response = client.get(url, params=query)
        if response.status_code == 404:
            raise SourceUnknown(origin=_origin(source), what=f"repository {source.where}", model=model)
        response.raise_for_status()
        document = response.json()
        data = document["Data"]
    except (httpx2.HTTPError, ValueError, KeyError, TypeError) as failed:
        raise _unreachable(source, failed) from failed
    if not document.get("Success") or not isinstance(data, dict):
        raise SourceUnknown(origin=_origin(source), what=f"repository {source.where}", model=model)
    return data


def _unreachable(source: Source, failed: Exception) -> OriginUnreachable:
    detail = f"{str(failed).partition(chr(10))[0] or type(failed).__name__}."
    return OriginUnreachable(origin=_origin(source), detail=detail, where="this API node")


def _origin(source: Source) -> str:
    return httpx2.URL(source.endpoint).host
