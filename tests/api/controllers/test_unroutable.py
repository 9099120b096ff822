"""Unroutable operations fail after a while: no live worker subscribes to their queues. Others do not."""

from __future__ import annotations

import pytest
from api.front_door import ScriptedWorker, api_node, controllers_of

from aima_core.domain.ids import OperationId
from aima_core.redis import keys

pytestmark = pytest.mark.redis
SERVICE = "svc-tiny-dial"
LIMIT = "10m"


@pytest.fixture
def controllers(node):
    return controllers_of(node)


def look(controllers, redis) -> None:
    redis.delete(keys.UPKEEP)
    controllers.run_once()


def passes(redis, seconds: float) -> None:
    """Backdates queued operations, and the records of which routes were served."""
    for id in redis.zrange(keys.ACTIVE, 0, -1):
        redis.hincrby(keys.operation(OperationId(id)), "put_down", -int(seconds * 1000))
    for name, at in redis.zrange(keys.ROUTES, 0, -1, withscores=True):
        redis.zadd(keys.ROUTES, {name: at - seconds * 1000})
    for name, at in redis.zrange(keys.HOSTS_SEEN, 0, -1, withscores=True):
        redis.zadd(keys.HOSTS_SEEN, {name: at - seconds})


def test_a_start_that_nobody_ever_listened_for_fails_after_ten_minutes(node, redis, redis_url, controllers):
    (start,) = node.start()
    passes(redis, 590)
    look(controllers, redis)
    assert node.operation(start["id"])["state"] == "queued"

    passes(redis, 20)
    look(controllers, redis)

    failed = node.operation(start["id"])
    assert (failed["state"], failed["failure"]["code"]) == ("failed", "no_live_host")
    assert failed["failure"]["message"].startswith("No live host has consumed cpu.")
    assert "for 10m" in failed["failure"]["message"]


def test_it_is_counted_from_when_somebody_last_listened(node, redis, redis_url, worker, controllers):
    (start,) = node.start()
    passes(redis, 3600)
    ScriptedWorker(redis)  # live all the time, but without capacity
    look(controllers, redis)
    assert node.operation(start["id"])["state"] == "queued"

    passes(redis, 590)
    look(controllers, redis)
    assert node.operation(start["id"])["state"] == "queued"
    passes(redis, 20)
    look(controllers, redis)

    assert node.operation(start["id"])["failure"]["code"] == "no_live_host"


def test_nobody_gives_up_before_having_watched_for_that_long(node, redis):
    (start,) = node.start()
    passes(redis, 3600)

    look(node.server.config.app.state.controllers, redis)

    assert node.operation(start["id"])["state"] == "queued"


def test_what_was_given_up_wants_nothing_of_its_host_any_more(node, redis, redis_url, worker, controllers):
    (start,) = node.start(hosts=["alpha"])
    passes(redis, 700)

    look(controllers, redis)

    assert node.operation(start["id"])["failure"]["code"] == "no_live_host"
    (instance,) = node.get(f"/v1/services/{SERVICE}").json()["instances"]
    assert (instance["desired"], instance["failure"]["code"]) == ("stopped", "no_live_host")


def test_a_stop_that_was_given_up_still_counts(node, redis, redis_url, worker, controllers):
    (start,) = node.start()
    worker.is_ready(start)
    (stop,) = node.post(f"/v1/services/{SERVICE}:stop").json()["operations"]
    passes(redis, 700)

    look(controllers, redis)

    failed = node.operation(stop["id"])
    assert failed["failure"]["code"] == "no_live_host"
    assert "still stops what runs there" in failed["failure"]["hint"]
    (instance,) = node.get(f"/v1/services/{SERVICE}").json()["instances"]
    assert instance["desired"] == "stopped"


def test_how_long_is_waited_can_be_set(redis, redis_url):
    with api_node(redis_url, wait_for_hosts="2h") as node:
        (start,) = node.start()
        controllers = controllers_of(node)
        passes(redis, 3600)
        look(controllers, redis)
        assert node.operation(start["id"])["state"] == "queued"

        passes(redis, 3700)
        look(controllers, redis)

        assert "for 2h" in node.operation(start["id"])["failure"]["message"]
