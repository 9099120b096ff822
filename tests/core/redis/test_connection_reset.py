"""Repeated resets of every connection: no operation is executed twice, and followers miss no event."""

from __future__ import annotations

from datetime import timedelta
from threading import Thread

import pytest
from api.node import ScriptedWorker, api_node, numbers
from lab.parts import eventually

from aima_core.domain.operations import Phase, State
from aima_core.redis.connection import command_link

pytestmark = pytest.mark.redis

EVENTS = 60


def test_starts_whose_connections_are_reset_are_executed_once(a_redis, hosts_of, asked_of):
    redis = a_redis()
    fleet, asked = hosts_of(redis.url), asked_of(redis.url)
    ids = asked.starts(10)
    assert eventually(lambda: any(map(asked.has_begun, ids)))

    for _ in range(3):
        assert eventually(lambda: redis.reset_connections("normal") > 0)
        redis.reset_connections("pubsub")

    assert asked.have_ended(ids, within=timedelta(seconds=90))
    assert {asked.store.get(id).state for id in ids} == {State.SUCCEEDED}
    assert {asked.store.get(id).attempt for id in ids} <= {1, 2}  # an operation cut off at its end is claimed again
    assert set(fleet.made().values()) == {1}


@pytest.mark.parametrize("kind", ["normal", "pubsub"])
def test_a_follower_whose_connections_are_reset_receives_every_event_once(a_redis, kind):
    redis = a_redis()
    link = command_link(redis.url)
    worker = ScriptedWorker(link)
    with api_node(redis.url) as node:
        [operation] = node.start()
        worker.claim_start(operation["id"])
        with node.following(operation["id"]) as stream:
            received = [next(stream)]
            listening = Thread(target=lambda: received.extend(stream))
            listening.start()

            for number in range(EVENTS):
                worker.says(operation["id"], Phase.LOADING, message=f"step {number}")
                if number % 10 == 5:
                    redis.reset_connections(kind)
            worker.says(operation["id"], Phase.READY)
            listening.join(30)
    link.close()

    assert numbers(received) == list(range(1, EVENTS + 3))
