"""Shutdown of a host's tails, with concurrent follow requests (race)."""

from __future__ import annotations

import pytest
from logs.desk import Desk

from aima_core.domain.ids import ServiceId
from aima_core.redis.connection import RedisClient
from aima_worker.logs.channel import LogChannel
from aima_worker.logs.collector import LogCollector
from aima_worker.logs.tail import Tail

pytestmark = pytest.mark.redis


def test_a_follow_request_during_shutdown_does_not_keep_tails_from_closing(
    desk: Desk, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    tails = LogCollector(desk.host, LogChannel(redis))
    tails.start()
    tails.follow(desk.instance)
    closed, close = [], Tail.close

    def close_as_another_is_asked_for(tail: Tail) -> None:
        tails.follow(ServiceId(f"svc-another-{len(closed)}").on(desk.host.name))
        closed.append(tail)
        close(tail)

    monkeypatch.setattr(Tail, "close", close_as_another_is_asked_for)
    tails.stop()

    assert len(closed) == 1
