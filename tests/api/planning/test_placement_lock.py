"""The placement lock: two API nodes never place replicas of one service from the same snapshot."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from api.node import ScriptedWorker, api_node
from lab.parts import eventually

from aima_api.planning import placement
from aima_api.planning.placement import LOCK_TTL
from aima_core.domain.ids import ServiceId
from aima_core.redis import keys

pytestmark = pytest.mark.redis
SERVICE = ServiceId("svc-tiny-dial")


def test_a_placement_that_waited_for_the_lock_sees_the_previous_choice(node, redis, redis_url, monkeypatch):
    monkeypatch.setattr(placement, "ACQUIRE_TIMEOUT", timedelta(minutes=1))  # it does without the lock afterwards
    for name in ("alpha", "beta", "gamma", "delta"):
        ScriptedWorker(redis, name)
    redis.set(keys.turn(SERVICE), "another node's", px=60_000)

    with api_node(redis_url) as other, ThreadPoolExecutor() as clients:
        answers = [clients.submit(each.start, replicas=2) for each in (node, other)]
        assert not eventually(lambda: any(each.done() for each in answers), within=timedelta(seconds=1))
        for name in ("alpha", "beta"):  # the stale snapshot would choose these
            ScriptedWorker(redis, name).leave()
        redis.delete(keys.turn(SERVICE))
        chosen = [sorted(each["route"] for each in answer.result()) for answer in answers]

    assert chosen == [["host.delta", "host.gamma"]] * 2


def test_the_lock_of_a_dead_node_expires_soon(node, redis):
    ScriptedWorker(redis, "alpha")
    ScriptedWorker(redis, "beta")
    redis.set(keys.turn(SERVICE), "a dead node's", px=int(LOCK_TTL.total_seconds() * 1000))

    started = node.start(replicas=2)

    assert len(started) == 2
    assert not redis.exists(keys.turn(SERVICE))
