"""The way to an instance, whatever its record says."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from aima_api.gateway.reach import Direct, Reach
from aima_core.domain.ids import InstanceId
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.system.engine_connections import EngineConnections

OWN = "boot:namespace"


def an_instance(**where: Any) -> Instance:
    return Instance(
        id=InstanceId("svc-tiny-dial@alpha"),
        desired=Desired.RUNNING,
        fence=1,
        state=InstanceState.READY,
        since=datetime.now(UTC),
        **where,
    )


@pytest.mark.parametrize("loopback", [OWN, "another", None])
@pytest.mark.parametrize("forged", ["http://[::1", "http://a:99999", "http://a:b", "file:///etc", "http://:80", ""])
def test_no_way_leads_to_a_forged_endpoint_that_is_no_url(loopback, forged):
    assert Reach(None, loopback=OWN).target_of(an_instance(endpoint=forged, loopback=loopback)) is None


def test_an_instance_of_the_own_loopback_is_reached_directly_and_of_another_not_at_all():
    reach, endpoint = Reach(None, loopback=OWN), "http://127.0.0.1:20000"

    assert reach.target_of(an_instance(endpoint=endpoint, loopback=OWN)) == Direct(endpoint)
    assert reach.target_of(an_instance(endpoint=endpoint, loopback="another")) is None


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
