"""Tokens by which hosts read pieces of models from one another, one model at one host each.

A host signs them with its own key, whose public half it announces and an API node certifies: reading Redis grants no
access to models.
"""

import secrets
from typing import NamedTuple

from pydantic import SecretStr

from aima_core.domain.ids import HostName
from aima_core.settings import Settings
from aima_core.system.state_dir import mint
from aima_core.trust.keys import Purpose, SigningKey
from aima_core.trust.tokens import Access, Certificate, TokenKind


class PeerCertificate(Certificate):
    name: HostName
    """Of the host whose key it is."""


class PieceAccess(Access):
    """Says that the bearer may read this model's pieces at this host."""

    at: HostName
    manifest: str
    """Its digest."""

    @property
    def host(self) -> HostName:
        return self.at


def host_key(settings: Settings) -> SigningKey:
    """Of this host, minted once."""
    file = settings.state_dir.expanduser() / "host.key"
    return SigningKey(SecretStr(mint(file, lambda: f"{secrets.token_urlsafe(48)}\n", mode=0o600)))


class PiecesOf(NamedTuple):
    at: HostName
    manifest: str


PEERS: TokenKind[PiecesOf, PieceAccess] = TokenKind(
    certificate=PeerCertificate,
    certified_for=Purpose.PEER,
    access=PieceAccess,
    signed_for=Purpose.PIECES,
    grant=lambda pieces, until: PieceAccess(at=pieces.at, manifest=pieces.manifest, not_after=until),
    holder="host",
)
