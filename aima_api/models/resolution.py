"""Resolves the source of a model to a manifest, once: every worker gets a snapshot of the same files.

A branch that moves later changes nothing. Concurrent resolutions are idempotent: the last one is stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import httpx2
from pydantic import ValidationError

from aima_api.models import hub, modelscope
from aima_api.models.manifests import ManifestStore
from aima_core.domain.catalog import Model
from aima_core.domain.models import Manifest, Origin, Source, url_manifest
from aima_core.errors import ModelHasNoSource, OriginUnreachable, SourceDenied, SourceUnknown, SourceUnusable
from aima_core.trust.keys import SigningKey


@dataclass(frozen=True)
class ModelResolver:
    manifests: ManifestStore
    signing_key: SigningKey

    def resolve(self, model: Model) -> Manifest:
        """Of the revision that the source names now; one of a pinned source is kept. Signed and stored.

        Raises ModelHasNoSource, SourceUnknown, SourceDenied, SourceUnusable, OriginUnreachable, BrokerUnavailable.
        """
        if model.source is None:
            raise ModelHasNoSource(model=model.name)
        source = Source.parse(model.source)
        if source.is_pinned and (known := self.manifests.of(model)):
            return known
        manifest = resolve(model, source)
        self.manifests.put(manifest, self.signing_key)
        return manifest


def resolve(model: Model, source: Source) -> Manifest:
    """Raises SourceUnknown, SourceDenied, SourceUnusable, OriginUnreachable."""
    text = model.source or ""
    try:
        if source.origin is Origin.HTTPS:
            return url_manifest(model.id, text, _size_at(source, model.name))
        at_origin = {Origin.HF: hub.resolve, Origin.MODELSCOPE: modelscope.resolve}[source.origin]
        found = at_origin(source, model.files, model=model.name)
        if not found.files:
            remedy = "Correct the patterns in `files`." if model.files else "Name a repository with files."
            raise SourceUnusable(source=text, detail="it has none of the files", remedy=remedy)
        return Manifest(
            model=model.id,
            source=text,
            patterns=model.files,
            revision=found.revision,
            endpoint=source.endpoint,
            files=tuple(sorted(found.files, key=lambda file: file.path)),
        )
    except (ValidationError, KeyError) as wrong:
        detail = wrong.errors()[0]["msg"].removeprefix("Value error, ") if isinstance(wrong, ValidationError) else wrong
        remedy = "Choose its files by `files` in the model's file, or another source."
        raise SourceUnusable(source=text, detail=f"{detail}".rstrip("."), remedy=remedy) from wrong


def _size_at(source: Source, model: str) -> int:
    origin = httpx2.URL(source.where).host
    try:
        with httpx2.Client(timeout=hub.TIMEOUT.total_seconds(), follow_redirects=True) as client:
            response = client.head(source.where, headers={"Accept-Encoding": "identity"})
    except httpx2.HTTPError as failed:
        detail = f"{failed or type(failed).__name__}."
        raise OriginUnreachable(origin=origin, detail=detail, where="this API node") from failed
    if response.status_code in (404, 410):
        raise SourceUnknown(origin=origin, what=f"file at {source.where}", model=model)
    if response.status_code in (401, 403):
        remedy = "Name a URL that can be read without an account, or copy the file to the hosts."
        detail = f"{response.status_code} {response.reason_phrase}."
        raise SourceDenied(origin=origin, what=source.where, detail=detail, remedy=remedy)
    length = response.headers.get("Content-Length", "")
    if response.status_code != 200 or not length.isdigit():
        detail = f"it answers {response.status_code} without a length."
        raise OriginUnreachable(origin=origin, detail=detail, where="this API node")
    return int(length)
