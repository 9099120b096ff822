"""Signed records: texts in Redis or in labels that are trusted for their signature, not for where they were found.

The signed text is stored verbatim, so that a reader verifies the bytes that were signed before it parses them. The
signature covers the record's id: a valid record cannot take the place of another.
"""

from typing import NamedTuple

from pydantic import ValidationError

from aima_core.domain.ids import ServiceId, SignedText
from aima_core.domain.services import Service
from aima_core.errors import BadSignature, UnverifiedService
from aima_core.trust.keys import KeyRing, Purpose, SigningKey


class SignedRecord(SignedText):
    """The record's JSON with its signature."""

    @classmethod
    def of(cls, text: str, *, id: str, purpose: Purpose, key: SigningKey) -> "SignedRecord":
        return cls(text=text, signature=key.sign(_signed_text(id, text), purpose))

    def verified(self, keys: KeyRing, *, id: str, purpose: Purpose) -> str:
        """The text. Raises BadSignature."""
        keys.verify(_signed_text(id, self.text), purpose, self.signature)
        return self.text


class SignedService(NamedTuple):
    """A spec that verifies, and the record that it was read from, which is passed on verbatim."""

    spec: Service
    record: SignedRecord

    @classmethod
    def of(cls, spec: Service, key: SigningKey) -> "SignedService":
        text = spec.model_dump_json()
        return cls(spec, SignedRecord.of(text, id=spec.id, purpose=Purpose.SERVICE, key=key))

    @classmethod
    def verified(cls, signed: SignedText, keys: KeyRing, *, id: ServiceId) -> "SignedService":
        """Raises UnverifiedService unless it is the record of this service, signed for it."""
        record = SignedRecord(text=signed.text, signature=signed.signature)
        try:
            return cls(Service.model_validate_json(record.verified(keys, id=id, purpose=Purpose.SERVICE)), record)
        except BadSignature as forged:
            raise UnverifiedService(service=id, why="its signature does not verify") from forged
        except ValidationError as unreadable:
            raise UnverifiedService(service=id, why="this version of AIMA cannot read it") from unreadable


def _signed_text(id: str, text: str) -> str:
    return f"{len(id)}:{id}\n{text}"
