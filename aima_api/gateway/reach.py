"""The way to an instance.

It is reached directly where the gateway shares its loopback, else through its host's data plane. Names and addresses do
not decide locality: containers and copied machines share them. An instance without a way gets no requests, and its
stale address never leads to another instance: a token names the instance that it is for.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import urlsplit

from aima_core.domain.ids import InstanceId
from aima_core.domain.services import Instance
from aima_core.system.engine_connections import HeaderPairs
from aima_core.system.loopback import is_loopback
from aima_core.trust.gateways import TokenSigner


@dataclass(frozen=True)
class Direct:
    """The address that the instance's worker reports."""

    url: str

    def headers(self) -> HeaderPairs:
        return ()


@dataclass(frozen=True)
class ThroughDataplane:
    url: str
    instance: InstanceId
    tokens: TokenSigner

    def headers(self) -> HeaderPairs:
        """Raises NotCertified."""
        return ((b"authorization", f"Bearer {self.tokens.token(self.instance)}".encode()),)


class Reach:
    def __init__(self, tokens: TokenSigner | None, *, loopback: str | None) -> None:
        """Without tokens, no data plane is used; `loopback` identifies the gateway's own."""
        self.needs_tokens = asyncio.Event()
        """Set once an instance is reached by a data plane."""
        self._tokens = tokens
        self._loopback = loopback

    def target_of(self, instance: Instance) -> Direct | ThroughDataplane | None:
        """None if no way leads to it."""
        endpoint = instance.endpoint
        if endpoint is None:
            return None
        if instance.loopback is None or instance.loopback == self._loopback:
            return Direct(endpoint)
        if instance.dataplane and self._tokens:
            self.needs_tokens.set()
            return ThroughDataplane(f"{instance.dataplane}/i/{instance.id}", instance.id, self._tokens)
        return None if is_loopback(urlsplit(endpoint).hostname or "") else Direct(endpoint)
