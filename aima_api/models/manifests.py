"""Manifests of models in Redis: signed, so that a writer in Redis can delete one, and not forge or exchange one."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from aima_core.domain.catalog import Model
from aima_core.domain.models import Manifest
from aima_core.errors import BadSignature
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.trust.keys import KeyRing, Purpose, SigningKey
from aima_core.trust.records import SignedRecord

MAX_RECORD_BYTES = 400_000


@dataclass(frozen=True)
class ManifestStore:
    """Every call may raise BrokerUnavailable within seconds."""

    redis: TextRedis
    trusted: KeyRing

    def put(self, manifest: Manifest, signing_key: SigningKey) -> None:
        """Replaces that of an earlier revision."""
        text = manifest.model_dump_json(exclude_defaults=True)
        signed = SignedRecord.of(text, id=manifest.model, purpose=Purpose.MANIFEST, key=signing_key)
        self.redis.hset(keys.MANIFESTS, manifest.model, signed.model_dump_json())

    def of(self, model: Model) -> Manifest | None:
        """The manifest of the source that the catalog names now; None if it is stale, or does not verify.

        That of a directory is in the catalog itself.
        """
        if model.manifest is not None:
            return model.manifest
        if model.source is None or not (record := self.redis.hget(keys.MANIFESTS, model.id)):
            return None
        if len(record) > MAX_RECORD_BYTES:
            return None
        try:
            signed = SignedRecord.model_validate_json(record)
            text = signed.verified(self.trusted, id=model.id, purpose=Purpose.MANIFEST)
            manifest = Manifest.model_validate_json(text)
        except (ValidationError, BadSignature):
            return None
        return manifest if manifest.model == model.id and manifest.is_of(model.source, model.files) else None
