"""Unroutable operations fail after a while: no live worker subscribes to their queues. Others do not."""

from __future__ import annotations

import pytest
from api.node import ScriptedWorker, api_node, controllers_of

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


def test_a_start_without_any_consumer_fails_after_ten_minutes(node, redis, redis_url, controllers):
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


def test_the_ten_minutes_begin_when_the_last_consumer_left(node, redis, redis_url, worker, controllers):
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


def test_no_operation_fails_before_a_node_has_watched_for_the_whole_period(node, redis):
    (start,) = node.start()
    passes(redis, 3600)

    look(node.server.config.app.state.controllers, redis)

    assert node.operation(start["id"])["state"] == "queued"


def test_a_start_that_failed_as_unroutable_leaves_nothing_desired_on_its_host(
    node, redis, redis_url, worker, controllers
):
    (start,) = node.start(hosts=["alpha"])
    passes(redis, 700)

    look(controllers, redis)

    assert node.operation(start["id"])["failure"]["code"] == "no_live_host"
    (instance,) = node.get(f"/v1/services/{SERVICE}").json()["instances"]
    assert (instance["desired"], instance["failure"]["code"]) == ("stopped", "no_live_host")


def test_a_stop_that_failed_as_unroutable_still_counts(node, redis, redis_url, worker, controllers):
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


def test_the_period_can_be_configured(redis, redis_url):
    with api_node(redis_url, wait_for_hosts="2h") as node:
        (start,) = node.start()
        controllers = controllers_of(node)
        passes(redis, 3600)
        look(controllers, redis)
        assert node.operation(start["id"])["state"] == "queued"

        passes(redis, 3700)
        look(controllers, redis)

        assert "for 2h" in node.operation(start["id"])["failure"]["message"]
