"""Ed25519 keys of an installation: API nodes sign with a private key, workers and gateways hold public keys only.

A host that is taken over can therefore forge nothing for another host. Each signature names its key and its purpose, so
that keys can be rotated and a signature of one kind of text is never accepted for another.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from enum import StrEnum
from hashlib import sha256
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import SecretStr

from aima_core.errors import BadSettings, BadSignature

MIN_SEED_LENGTH = 32
MIN_DISTINCT = 8
"""Characters of a seed that differ: fewer are a placeholder, such as `xxxx…`."""
_PLACEHOLDERS = ("change-me", "changeme", "change_me", "example", "placeholder", "your-key", "your_key", "insert")
_PREFIX = "ed25519:"


class Purpose(StrEnum):
    """What a signature is for; part of the signed bytes (domain separation)."""

    ORDER = "order"
    SERVICE = "service"
    API_KEY = "api-key"


class PublicKey(str):
    """The public half of a signing key as text: `ed25519:` and its 32 bytes in URL-safe base64. Raises BadSettings."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        try:
            well_formed = text.startswith(_PREFIX) and len(_decoded(text.removeprefix(_PREFIX))) == 32
        except ValueError:
            well_formed = False
        if not well_formed:
            raise BadSettings(
                detail=f"{text[:80]!r} is not a public key.", where="AIMA_TRUSTED_KEYS: `aima key public` prints it"
            )
        return super().__new__(cls, text)

    @property
    def key_id(self) -> str:
        return sha256(self.encode()).hexdigest()[:16]

    def is_signed(self, payload: bytes, signature: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(_decoded(self.removeprefix(_PREFIX))).verify(signature, payload)
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """The private key of API nodes, derived from the seed in `signing_key`."""

    def __init__(self, seed: SecretStr) -> None:
        """Raises BadSettings if the seed can be guessed."""
        check_seed(seed)
        self._private = Ed25519PrivateKey.from_private_bytes(sha256(seed.get_secret_value().encode()).digest())
        self.public = PublicKey(_PREFIX + _encoded(self._private.public_key().public_bytes_raw()))
        self._key_id = self.public.key_id

    def sign(self, text: str, purpose: Purpose) -> str:
        """The signature of a text, with the id of the key: `KEY_ID.BASE64`."""
        return f"{self._key_id}.{_encoded(self._private.sign(_payload(text, purpose)))}"


class KeyRing:
    """The public keys of an installation. A retired key verifies stored records and labels, never a new order."""

    def __init__(self, trusted: Iterable[PublicKey], *, retired: Iterable[PublicKey] = ()) -> None:
        self._trusted = {key.key_id: key for key in trusted}
        self._retired = {key.key_id: key for key in retired}

    def verify(self, text: str, purpose: Purpose, signature: str) -> None:
        """Raises BadSignature, unless a key that may sign for this purpose has signed exactly this text."""
        key_id, _, encoded = signature.partition(".")
        key = self._trusted.get(key_id) or (None if purpose is Purpose.ORDER else self._retired.get(key_id))
        try:
            if key is not None and key.is_signed(_payload(text, purpose), _decoded(encoded)):
                return
        except ValueError:
            pass
        raise BadSignature(what=f"the {purpose} (key {key_id[:16]!r})")


def check_seed(seed: SecretStr) -> None:
    """Raises BadSettings if it is blank, shorter than MIN_SEED_LENGTH, or a placeholder."""
    text = seed.get_secret_value()
    if len(text.strip()) < MIN_SEED_LENGTH:
        what = f"has {len(text.strip())} characters; it needs at least {MIN_SEED_LENGTH}"
    elif len(set(text)) < MIN_DISTINCT or any(word in text.lower() for word in _PLACEHOLDERS):
        what = "looks like a placeholder"
    else:
        return
    raise BadSettings(detail=f"The signing key {what}.", where="AIMA_SIGNING_KEY: `openssl rand -hex 32` makes one")


def _payload(text: str, purpose: Purpose) -> bytes:
    return f"aima {purpose} v1\n{text}".encode()


def _encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    """Raises ValueError."""
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
