"""How often a gateway has its key certified, by API nodes that answer and by none."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from api.node import api_node
from lab.dataplane import GATEWAY, INSTANCE

from aima_api.gateway.certification import keep_certified
from aima_core.errors import NotCertified
from aima_core.settings import GatewaySettings
from aima_core.store.operations import now
from aima_core.trust.gateways import TokenSigner

NOWHERE = "http://127.0.0.1:1"


class Ended(Exception):
    """The last pause has begun."""


class Pauses:
    """Pauses that end at once, up to a number of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.taken = list[float]()

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        if len(self.taken) == self._most:
            raise Ended


def pauses_of(tokens: TokenSigner, url: str, number: int) -> list[float]:
    """Between the requests of a gateway."""
    pauses = Pauses(number)
    with pytest.raises(Ended):
        asyncio.run(keep_certified(tokens, GatewaySettings(api=(url,)), pause=pauses))
    return pauses.taken


@pytest.mark.redis
def test_a_certificate_is_renewed_after_a_third_of_its_lifetime(redis_url):
    tokens = TokenSigner(GATEWAY, now=now)
    with api_node(redis_url) as node:
        pauses = pauses_of(tokens, node.url, 2)

    assert pauses == [timedelta(minutes=5).total_seconds()] * 2
    assert tokens.token(INSTANCE)


def test_a_gateway_without_a_certificate_asks_again_ever_more_seldom():
    tokens = TokenSigner(GATEWAY, now=now)

    assert pauses_of(tokens, NOWHERE, 7) == [0.5, 1, 2, 4, 8, 10, 10]
    with pytest.raises(NotCertified):
        tokens.token(INSTANCE)
