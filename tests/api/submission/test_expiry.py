"""Expiry: an operation that no host has begun within the limit of its request ends, and says so."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from api.node import SERVICE, controllers_of, waiting_on

from aima_core.domain.ids import OperationId
from aima_core.redis import keys

pytestmark = pytest.mark.redis


@pytest.fixture
def controllers(node):
    return controllers_of(node)


def limit_of(operation) -> timedelta:
    return datetime.fromisoformat(operation["expires_at"]) - datetime.fromisoformat(operation["created_at"])


def passes(redis, limit: timedelta) -> None:
    """Backdates the times at which queued operations expire."""
    for id in redis.zrange(keys.ACTIVE, 0, -1):
        redis.hincrby(keys.operation(OperationId(id)), "not_after", -int(limit.total_seconds() * 1000))


def test_an_operation_expires_after_a_day_or_as_its_request_says(node, worker):
    [start] = node.start()
    [hasty] = node.start(expires="90s", port=20001)
    pull = node.post("/v1/images:pull", {"image": "repo/name:1", "expires": "2h"}).json()["operations"][0]

    assert [limit_of(each) for each in (start, hasty, pull)] == [
        timedelta(days=1),
        timedelta(seconds=90),
        timedelta(hours=2),
    ]
    assert "expires" not in node.get(f"/v1/services/{SERVICE}").json()


@pytest.mark.parametrize("expires", ["0s", "8d", "soon", 60])
def test_a_limit_out_of_range_is_refused(node, worker, expires):
    refused = node.post(f"/v1/services/{SERVICE}:start", {"expires": expires})

    assert refused.status_code == 422
    assert "expires" in refused.text


def test_a_start_that_no_host_has_claimed_ends_as_expired_with_its_instance(node, worker, redis, controllers):
    [start] = node.start(expires="90s", hosts=["alpha"])

    passes(redis, timedelta(seconds=80))
    controllers.run_once()
    before = node.operation(start["id"])["state"]
    passes(redis, timedelta(seconds=20))
    redis.delete(keys.UPKEEP)
    controllers.run_once()

    ended = node.operation(start["id"])
    assert (before, ended["state"], ended["failure"]["code"]) == ("queued", "failed", "expired")
    assert "within 1m30s" in ended["failure"]["message"]
    [instance] = node.get(f"/v1/services/{SERVICE}").json()["instances"]
    assert (instance["desired"], instance["failure"]["code"]) == ("stopped", "expired")


def test_a_start_that_a_host_has_begun_does_not_expire(node, worker, redis, redis_url, controllers):
    [start] = node.start(expires="90s")
    waiting_on(redis_url, "cpu.amd64")
    worker.claim_start(start["id"])

    passes(redis, timedelta(days=2))
    controllers.run_once()

    assert node.operation(start["id"])["state"] == "running"
