"""Signed records: texts in Redis or in labels that are trusted for their signature, not for where they were found.

The signed text is stored verbatim, so that a reader verifies the bytes that were signed before it parses them. The
signature covers the record's id: a valid record cannot take the place of another.
"""

from aima_core.domain.ids import WireModel
from aima_core.trust.keys import KeyRing, Purpose, SigningKey


class SignedRecord(WireModel):
    text: str
    """The record's JSON, verbatim."""
    signature: str

    @classmethod
    def of(cls, text: str, *, id: str, purpose: Purpose, key: SigningKey) -> "SignedRecord":
        return cls(text=text, signature=key.sign(_signed_text(id, text), purpose))

    def verified(self, keys: KeyRing, *, id: str, purpose: Purpose) -> str:
        """The text. Raises BadSignature."""
        keys.verify(_signed_text(id, self.text), purpose, self.signature)
        return self.text


def _signed_text(id: str, text: str) -> str:
    return f"{len(id)}:{id}\n{text}"
