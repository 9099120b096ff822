"""Short-lived bearer tokens, signed with a key that an API node has certified, and verified without any other party.

The holder of a certified key signs its tokens itself, so that they are made while all API nodes are away. Purposes
separate these signatures from all others: neither a certificate nor a token ever counts as an order, a spec or an API
key. A token names the one host that accepts it, and may be used again until it expires.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Generic, NamedTuple, Self, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from aima_core.domain.ids import HostName, SignedText
from aima_core.errors import AimaError, BadSignature, NotCertified, TokenRefused
from aima_core.trust.keys import KeyRing, PublicKey, Purpose, SigningKey
from aima_core.trust.orders import CLOCK_DIFFERENCE

TOKEN_LIFETIME = timedelta(seconds=60)
LONGEST_CERTIFICATE = timedelta(days=1)
LONGEST_TOKEN = 4096
"""Characters."""
MOST_VERIFIED = 1024
"""Tokens that a verifier remembers, so that each is verified once."""


class Signed(BaseModel):
    """An unknown field is refused: it may be a limit that this version would not keep."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Certificate(Signed):
    """Says that this key is of a holder that API nodes know, until it expires."""

    public_key: str
    not_before: AwareDatetime
    not_after: AwareDatetime

    def sign(self, key: SigningKey, purpose: Purpose) -> SignedText:
        text = self.model_dump_json()
        return SignedText(text=text, signature=key.sign(text, purpose))


class Access(Signed):
    """Says what the bearer may reach, by the fields of its kind."""

    not_after: AwareDatetime

    @property
    def host(self) -> HostName:
        """No other host accepts the token."""
        raise NotImplementedError


AnAccess = TypeVar("AnAccess", bound=Access)
Subject = TypeVar("Subject")


class TokenKind(NamedTuple, Generic[Subject, AnAccess]):
    certificate: type[Certificate]
    certified_for: Purpose
    access: type[AnAccess]
    signed_for: Purpose
    grant: Callable[[Subject, datetime], AnAccess]
    """What a token for the subject says."""
    holder: str
    """What messages call who signs."""


class _Token(Signed):
    certificate: SignedText
    access: SignedText

    def encode(self) -> str:
        return urlsafe_b64encode(self.model_dump_json().encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Self:
        """Raises ValueError."""
        return cls.model_validate_json(urlsafe_b64decode(text + "=" * (-len(text) % 4)))


class BearerSigner(Generic[Subject]):
    """Signs the tokens of a holder and caches each subject's until half of it has expired. For one thread at a time."""

    def __init__(self, kind: TokenKind[Subject, AnAccess], key: SigningKey, *, now: Callable[[], datetime]) -> None:
        self.public_key = key.public
        self._kind = kind
        self._key = key
        self._now = now
        self._certificate: SignedText | None = None
        self._expires: datetime | None = None
        self._tokens: dict[Subject, tuple[str, datetime]] = {}

    def certify(self, certificate: SignedText) -> datetime:
        """From now on; returns when it expires. Raises NotCertified if it is of another key or unreadable."""
        try:
            read = self._kind.certificate.model_validate_json(certificate.text)
        except ValidationError as wrong:
            raise NotCertified(why="this version of AIMA does not understand the certificate") from wrong
        if read.public_key != self.public_key:
            raise NotCertified(why="the certificate is of another key")
        self._certificate, self._expires = certificate, read.not_after
        self._tokens.clear()
        return read.not_after

    @property
    def is_certified(self) -> bool:
        """By a certificate that has not expired, by the clock of the API node."""
        return self._expires is not None and self._now() <= self._expires + CLOCK_DIFFERENCE

    def token(self, subject: Subject) -> str:
        """Raises NotCertified."""
        now = self._now()
        known = self._tokens.get(subject)
        if known is not None and now < known[1]:
            return known[0]
        if self._certificate is None or self._expires is None:
            raise NotCertified(why="none has answered yet")
        if not self.is_certified:
            raise NotCertified(why=f"its certificate expired at {self._expires:%Y-%m-%d %H:%M:%S} UTC")
        self._tokens = {each: kept for each, kept in self._tokens.items() if now < kept[1]}
        access = self._kind.grant(subject, now + TOKEN_LIFETIME).model_dump_json()
        signed = SignedText(text=access, signature=self._key.sign(access, self._kind.signed_for))
        token = _Token(certificate=self._certificate, access=signed).encode()
        self._tokens[subject] = token, now + TOKEN_LIFETIME / 2
        return token


class _Verified(NamedTuple, Generic[AnAccess]):
    access: AnAccess
    until: datetime


class BearerVerifier(Generic[Subject, AnAccess]):
    """Verifies tokens of one kind with the public keys of API nodes and this host's clock."""

    def __init__(
        self, kind: TokenKind[Subject, AnAccess], keys: KeyRing, host: HostName, *, now: Callable[[], datetime]
    ) -> None:
        self._kind = kind
        self._keys = keys
        self._host = host
        self._now = now
        self._verified: dict[str, _Verified[AnAccess]] = {}

    def check(self, token: str) -> AnAccess:
        """What it says. Raises TokenRefused unless a certified holder has signed it for this host, and it is valid."""
        now = self._now()
        found = self._verified.get(token)
        if found is None:
            found = self._read(token, now)
            if len(self._verified) >= MOST_VERIFIED:
                self._verified = {each: kept for each, kept in self._verified.items() if now <= kept.until}
            if len(self._verified) < MOST_VERIFIED:
                self._verified[token] = found
        if now > found.until:
            raise TokenRefused(why="it has expired")
        if found.access.host != self._host:
            raise TokenRefused(why="it is for another host")
        return found.access

    def _read(self, token: str, now: datetime) -> _Verified[AnAccess]:
        if len(token) > LONGEST_TOKEN:
            raise TokenRefused(why="it is no token")
        kind = self._kind
        try:
            given = _Token.decode(token)
            self._keys.verify(given.certificate.text, kind.certified_for, given.certificate.signature)
            certificate = kind.certificate.model_validate_json(given.certificate.text)
            holder = KeyRing([PublicKey(certificate.public_key)])
            holder.verify(given.access.text, kind.signed_for, given.access.signature)
            access = kind.access.model_validate_json(given.access.text)
        except BadSignature as forged:
            raise TokenRefused(why="a signature does not verify") from forged
        except (ValueError, AimaError) as wrong:  # such as BadId, and ValidationError, which is a ValueError
            raise TokenRefused(why="it is no token") from wrong
        if certificate.not_before > now + CLOCK_DIFFERENCE:
            raise TokenRefused(why=f"its {kind.holder} is certified from a later time on")
        if certificate.not_after - certificate.not_before > LONGEST_CERTIFICATE:
            raise TokenRefused(why=f"its {kind.holder} is certified for too long")
        if access.not_after > now + TOKEN_LIFETIME + CLOCK_DIFFERENCE:
            raise TokenRefused(why="it is valid for too long")
        return _Verified(access, min(access.not_after, certificate.not_after) + CLOCK_DIFFERENCE)
