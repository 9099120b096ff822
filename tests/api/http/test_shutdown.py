"""The shutdown of an API node: no pass of its loops outlasts its connections to Redis."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event

import pytest
from api.node import Node, api_node

from aima_core.system.background import BackgroundLoop

pytestmark = pytest.mark.redis


@pytest.mark.parametrize(
    "loop_of",
    [
        pytest.param(lambda node: node.server.config.app.state.controllers.loop, id="controllers"),
        pytest.param(lambda node: node.server.config.app.state.dependencies.cancellations.loop, id="cancellations"),
    ],
)
def test_the_connections_to_redis_are_closed_after_the_pass_that_uses_them(
    redis_url: str, loop_of: Callable[[Node], BackgroundLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    begun, closed = Event(), Event()

    def run_long() -> None:
        begun.set()
        closed.wait(0.3)
        order.append("pass")

    with api_node(redis_url) as node:
        connections = node.server.config.app.state.dependencies.redis
        close = connections.close

        def close_noticed() -> None:
            order.append("close")
            closed.set()
            close()

        monkeypatch.setattr(connections, "close", close_noticed)
        loop = loop_of(node)
        loop.run = run_long
        loop.wake()
        assert begun.wait(10)

    assert order == ["pass", "close"]
