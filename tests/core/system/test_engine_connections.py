"""A request to an engine over a kept connection."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import aiohttp
import pytest

from aima_core.system.engine_connections import EngineConnections


@pytest.mark.parametrize(
    ("url", "header"), [("http://[::1", b"x"), ("http://127.0.0.1:1/", b"x\r\nX-Other: y")], ids=["url", "header"]
)
def test_a_malformed_request_is_an_error_of_the_client_and_is_not_sent(url, header):
    async def request() -> None:
        connections = EngineConnections(connect=timedelta(seconds=1))
        try:
            with pytest.raises(aiohttp.InvalidURL):
                await connections.request("GET", url, [(b"x-own", header)])
        finally:
            await connections.aclose()

    asyncio.run(request())
