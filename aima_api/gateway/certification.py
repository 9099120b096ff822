"""Keeps the key of a gateway certified: by any API node, renewed after a third of the certificate's lifetime.

While no API node answers, the last certificate is used until it expires: for at least two thirds of `gateway.keys_for`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import aiohttp
import structlog

from aima_core.domain.ids import SignedText
from aima_core.errors import AimaError, NotCertified
from aima_core.settings import GatewaySettings
from aima_core.trust.gateways import TokenSigner

REPLY_TIMEOUT = timedelta(seconds=5)
FIRST_RETRY = timedelta(seconds=0.5)
LONGEST_RETRY = timedelta(seconds=10)
RENEWALS = 3
"""Within a certificate's lifetime: API nodes may be away for the rest of it."""

_log = structlog.get_logger()


def tls_to_hosts(settings: GatewaySettings) -> ssl.SSLContext:
    """Verifies API nodes and data planes. Raises OSError, of which SSLError is one."""
    return ssl.create_default_context(cafile=str(settings.ca) if settings.ca else None)


async def keep_certified(
    tokens: TokenSigner, settings: GatewaySettings, *, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Until cancelled."""
    connector = aiohttp.TCPConnector(ssl=tls_to_hosts(settings), force_close=True)
    timeout = aiohttp.ClientTimeout(total=REPLY_TIMEOUT.total_seconds())
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        delay = FIRST_RETRY
        while True:
            try:
                lifetime = await _certified(session, tokens, settings)
            except NotCertified as failed:
                _log.warning("gateway not certified", reason=str(failed), retry=delay.total_seconds())
                await pause(delay.total_seconds())
                delay = min(delay * 2, LONGEST_RETRY)
            else:
                delay = FIRST_RETRY
                await pause(lifetime / RENEWALS)


async def _certified(session: aiohttp.ClientSession, tokens: TokenSigner, settings: GatewaySettings) -> float:
    """By the first API node that does; returns the seconds of its lifetime. Raises NotCertified."""
    failures = []
    for node in settings.api:
        try:
            reply = await _request(session, f"{node.rstrip('/')}/v1/gateways", tokens, settings)
            tokens.certify(SignedText.model_validate(reply["certificate"]))
            return float(reply["lifetime"])
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, AimaError) as failed:
            failures.append(f"{node}: {failed or type(failed).__name__}")
    raise NotCertified(why="; ".join(failures))


async def _request(session: aiohttp.ClientSession, url: str, tokens: TokenSigner, settings: GatewaySettings) -> Any:
    key = settings.key
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    async with session.post(url, json={"public_key": tokens.public_key}, headers=headers) as reply:
        body = await reply.json(content_type=None)
        if reply.status != 201:
            raise NotCertified(why=str(body.get("detail", reply.status))[:300])
        return body
