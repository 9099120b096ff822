"""Access of gateways to engines: short-lived tokens, signed with a key that an API node has certified.

A gateway signs its tokens itself, so that it reaches engines while all API nodes are away. Purposes separate these
signatures from all others: neither a certificate nor a token ever counts as an order, a spec or an API key. A token may
be used again until it expires.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from aima_core.domain.ids import HostName, InstanceId, SignedText
from aima_core.errors import AimaError, BadSignature, NotCertified, TokenRefused
from aima_core.trust.keys import KeyRing, PublicKey, Purpose, SigningKey
from aima_core.trust.orders import CLOCK_DIFFERENCE

TOKEN_LIFETIME = timedelta(seconds=60)
LONGEST_CERTIFICATE = timedelta(days=1)
LONGEST_TOKEN = 4096
"""Characters."""
OF_DATAPLANE = "AIMA-Error"
"""The header with the code of a data plane's own error, which no engine's answer has."""
MOST_VERIFIED = 1024
"""Tokens that a data plane remembers, so that each is verified once."""


class _Signed(BaseModel):
    """An unknown field is refused: it may be a limit that this version would not keep."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Certificate(_Signed):
    """Says that this key is a gateway's."""

    public_key: str
    not_before: AwareDatetime
    not_after: AwareDatetime

    def sign(self, key: SigningKey) -> SignedText:
        text = self.model_dump_json()
        return SignedText(text=text, signature=key.sign(text, Purpose.GATEWAY))


class _Access(_Signed):
    """Says that the bearer may send requests to this instance."""

    instance: InstanceId
    not_after: AwareDatetime


class _Token(_Signed):
    certificate: SignedText
    access: SignedText

    def encode(self) -> str:
        return urlsafe_b64encode(self.model_dump_json().encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "_Token":
        """Raises ValueError."""
        return cls.model_validate_json(urlsafe_b64decode(text + "=" * (-len(text) % 4)))


class TokenSigner:
    """Signs the tokens of a gateway and caches each instance's until half of it has expired."""

    def __init__(self, key: SigningKey, *, now: Callable[[], datetime]) -> None:
        self.public_key = key.public
        self._key = key
        self._now = now
        self._certificate: SignedText | None = None
        self._expires: datetime | None = None
        self._tokens: dict[InstanceId, tuple[str, datetime]] = {}

    def certify(self, certificate: SignedText) -> datetime:
        """From now on; returns when it expires. Raises NotCertified if it is of another key or unreadable."""
        try:
            read = Certificate.model_validate_json(certificate.text)
        except ValidationError as wrong:
            raise NotCertified(why="this version of AIMA does not understand the certificate") from wrong
        if read.public_key != self.public_key:
            raise NotCertified(why="the certificate is of another key")
        self._certificate, self._expires = certificate, read.not_after
        self._tokens.clear()
        return read.not_after

    def token(self, instance: InstanceId) -> str:
        """Raises NotCertified."""
        now = self._now()
        known = self._tokens.get(instance)
        if known is not None and now < known[1]:
            return known[0]
        if self._certificate is None or self._expires is None:
            raise NotCertified(why="none has answered yet")
        if now > self._expires + CLOCK_DIFFERENCE:  # by the clock of the API node
            raise NotCertified(why=f"its certificate expired at {self._expires:%Y-%m-%d %H:%M:%S} UTC")
        self._tokens = {each: kept for each, kept in self._tokens.items() if now < kept[1]}
        access = _Access(instance=instance, not_after=now + TOKEN_LIFETIME).model_dump_json()
        signed = SignedText(text=access, signature=self._key.sign(access, Purpose.ACCESS))
        token = _Token(certificate=self._certificate, access=signed).encode()
        self._tokens[instance] = token, now + TOKEN_LIFETIME / 2
        return token


class _Verified(NamedTuple):
    instance: InstanceId
    until: datetime


class TokenVerifier:
    """Verifies tokens with the public keys of API nodes and this host's clock."""

    def __init__(self, keys: KeyRing, host: HostName, *, now: Callable[[], datetime]) -> None:
        self._keys = keys
        self._host = host
        self._now = now
        self._verified: dict[str, _Verified] = {}

    def check(self, token: str, instance: str) -> None:
        """Raises TokenRefused unless a certified gateway has signed it for this instance, and it is still valid."""
        now = self._now()
        found = self._verified.get(token)
        if found is None:
            found = self._read(token, now)
            if len(self._verified) >= MOST_VERIFIED:
                self._verified = {each: kept for each, kept in self._verified.items() if now <= kept.until}
            if len(self._verified) < MOST_VERIFIED:
                self._verified[token] = found
        if now > found.until:
            raise self._refused("it has expired")
        if found.instance != instance or found.instance.host != self._host:
            raise self._refused("it is for another instance")

    def _read(self, token: str, now: datetime) -> _Verified:
        if len(token) > LONGEST_TOKEN:
            raise self._refused("it is no token")
        try:
            given = _Token.decode(token)
            self._keys.verify(given.certificate.text, Purpose.GATEWAY, given.certificate.signature)
            certificate = Certificate.model_validate_json(given.certificate.text)
            gateway = KeyRing([PublicKey(certificate.public_key)])
            gateway.verify(given.access.text, Purpose.ACCESS, given.access.signature)
            access = _Access.model_validate_json(given.access.text)
        except BadSignature as forged:
            raise self._refused("a signature does not verify") from forged
        except (ValueError, AimaError) as wrong:  # such as BadId, and ValidationError, which is a ValueError
            raise self._refused("it is no token") from wrong
        if certificate.not_before > now + CLOCK_DIFFERENCE:
            raise self._refused("its gateway is certified from a later time on")
        if certificate.not_after - certificate.not_before > LONGEST_CERTIFICATE:
            raise self._refused("its gateway is certified for too long")
        if access.not_after > now + TOKEN_LIFETIME + CLOCK_DIFFERENCE:
            raise self._refused("it is valid for too long")
        return _Verified(access.instance, min(access.not_after, certificate.not_after) + CLOCK_DIFFERENCE)

    @staticmethod
    def _refused(why: str) -> TokenRefused:
        return TokenRefused(why=why)
