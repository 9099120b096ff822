"""Tokens by which gateways reach engines through data planes, one instance each."""

from collections.abc import Callable
from datetime import datetime

from aima_core.domain.ids import HostName, InstanceId
from aima_core.errors import TokenRefused
from aima_core.trust import tokens
from aima_core.trust.keys import KeyRing, Purpose, SigningKey
from aima_core.trust.tokens import Access, Certificate, TokenKind

OF_DATAPLANE = b"aima-error"
"""The header with the code of a data plane's own error, which no engine's answer has."""


class InstanceAccess(Access):
    """Says that the bearer may send requests to this instance."""

    instance: InstanceId

    @property
    def host(self) -> HostName:
        return self.instance.host


GATEWAYS: TokenKind[InstanceId, InstanceAccess] = TokenKind(
    certificate=Certificate,
    certified_for=Purpose.GATEWAY,
    access=InstanceAccess,
    signed_for=Purpose.ACCESS,
    grant=lambda instance, until: InstanceAccess(instance=instance, not_after=until),
    holder="gateway",
)


class TokenSigner(tokens.BearerSigner[InstanceId]):
    def __init__(self, key: SigningKey, *, now: Callable[[], datetime]) -> None:
        super().__init__(GATEWAYS, key, now=now)


class TokenVerifier:
    def __init__(self, keys: KeyRing, host: HostName, *, now: Callable[[], datetime]) -> None:
        self._tokens = tokens.BearerVerifier(GATEWAYS, keys, host, now=now)

    def check(self, token: str, instance: str) -> None:
        """Raises TokenRefused unless a certified gateway has signed it for this instance, and it is still valid."""
        if self._tokens.check(token).instance != instance:
            raise TokenRefused(why="it is for another instance")
