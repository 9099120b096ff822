"""Ed25519 keys of an installation: API nodes sign with a private key, workers and gateways hold public keys only.

A host that is taken over can therefore forge nothing for another host. Each signature names its key and its purpose, so
that keys can be rotated and a signature of one kind of text is never accepted for another.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from enum import StrEnum
from hashlib import sha256
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import SecretStr

from aima_core.errors import BadSettings, BadSignature
from aima_core.settings import Settings

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
    ALIAS = "alias"
    MANIFEST = "manifest"
    """Of a model's files."""
    GATEWAY = "gateway"
    """A certificate, by an API node, of a gateway's own key."""
    ACCESS = "access"
    """A token, by a gateway's own key, for one instance."""
    PEER = "peer"
    """A certificate, by an API node, of a host's own key."""
    PIECES = "pieces"
    """A token, by a host's own key, for the pieces of one model at another host."""


_STORED = frozenset({Purpose.SERVICE, Purpose.API_KEY, Purpose.ALIAS, Purpose.MANIFEST})
"""Kept for longer than the key that signed them."""


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

    def sign_batch(self, texts: Sequence[str], purpose: Purpose) -> list[str]:
        """One signature for all, with a proof for each text: `KEY_ID.BASE64.POSITION.PROOF` (Merkle tree).

        A signature takes longer than all else that is done for one operation of a thousand.
        """
        if len(texts) == 1:
            return [self.sign(texts[0], purpose)]
        levels = [[_leaf(text) for text in texts]]
        while len(levels[-1]) > 1:
            below = levels[-1] if len(levels[-1]) % 2 == 0 else [*levels[-1], levels[-1][-1]]
            levels[-1] = below
            levels.append([_node(left, right) for left, right in zip(below[::2], below[1::2], strict=True)])
        signature = self.sign(_batch(levels.pop()[0]), purpose)
        return [
            f"{signature}.{at}.{_encoded(b''.join(level[at >> height ^ 1] for height, level in enumerate(levels)))}"
            for at in range(len(texts))
        ]


class KeyRing:
    """The public keys of an installation.

    A retired key verifies stored records and labels, never a new order or the certificate of a gateway.
    """

    def __init__(self, trusted: Iterable[PublicKey], *, retired: Iterable[PublicKey] = ()) -> None:
        self._trusted = {key.key_id: key for key in trusted}
        self._retired = {key.key_id: key for key in retired}

    @property
    def trusted(self) -> Iterable[PublicKey]:
        return self._trusted.values()

    @property
    def trusts_any(self) -> bool:
        return bool(self._trusted)

    def verify(self, text: str, purpose: Purpose, signature: str, *, executed: bool = False) -> None:
        """Raises BadSignature, unless a key that may sign for this purpose has signed exactly this text.

        `executed` is an order that this host has executed, and keeps.
        """
        key_id, encoded, *batch = [*signature.split("."), ""][: max(2, signature.count(".") + 1)]
        is_stored = purpose in _STORED or executed
        key = self._trusted.get(key_id) or (self._retired.get(key_id) if is_stored else None)
        try:
            signed = _batch(_root(text, int(batch[0]), _decoded(batch[1]))) if len(batch) == 2 else text
            if key is not None and key.is_signed(_payload(signed, purpose), _decoded(encoded)):
                return
        except ValueError:
            pass
        raise BadSignature(what=f"the {purpose} (key {key_id[:16]!r})")


def key_ring(settings: Settings) -> KeyRing:
    """The public keys of the settings; the public half of `signing_key` is trusted, and nothing private is kept.

    Raises BadSettings if a key is malformed.
    """
    own = [SigningKey(settings.signing_key).public] if settings.signing_key is not None else []
    trusted, retired = {*own, *map(PublicKey, settings.trusted_keys)}, set(map(PublicKey, settings.retired_keys))
    if both := trusted & retired:
        detail = f"{min(both)} is retired, and trusted or the public half of `signing_key` as well."
        raise BadSettings(detail=detail, where="AIMA_RETIRED_KEYS, AIMA_TRUSTED_KEYS or AIMA_SIGNING_KEY")
    return KeyRing(trusted, retired=retired)


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


def _batch(root: bytes) -> str:
    """The text that is signed for a batch: never a record, which is JSON, or begins with a length."""
    return f"batch {root.hex()}"


def _leaf(text: str) -> bytes:
    return sha256(b"\0" + text.encode()).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


def _root(text: str, position: int, proof: bytes) -> bytes:
    """Raises ValueError for a position beyond the proof, which would give one text several positions."""
    if len(proof) % 32 or position >> len(proof) // 32:
        raise ValueError(position)
    digest = _leaf(text)
    for height in range(len(proof) // 32):
        other = proof[32 * height : 32 * height + 32]
        digest = _node(other, digest) if position >> height & 1 else _node(digest, other)
    return digest


def _encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    """Raises ValueError."""
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
