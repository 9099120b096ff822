"""Failover: work that is not bound to a lost host is rescheduled; in a suspected partition none is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from api.node import ScriptedWorker, controllers_of, waiting_on
from hypothesis import given
from hypothesis import strategies as st

from aima_api.controllers.failure_detector import detect_lost_hosts
from aima_core.domain.hosts import Host
from aima_core.domain.ids import OperationId
from aima_core.redis import keys
from aima_core.store.claims import Claimed, ClaimStatus, ClaimStore, NotClaimable

AFTER = timedelta(seconds=60)
SERVICE = "svc-tiny-dial"


def a_host(number: int, *, silent_for: float = 0, left: bool = False) -> Host:
    return Host.model_validate(
        {
            "name": f"host-{number}",
            "identity": str(number),
            "arch": "amd64",
            "address": "127.0.0.1",
            "cores": 1,
            "memory": 1,
            "disk_free": 1,
            "runtime": "fake",
            "runtime_version": "1",
            "ports": (20000, 20999),
            "routes": [f"host.host-{number}"],
            "version": "0",
            "live": silent_for < 15,
            "left": left,
            "seen_at": datetime.now(UTC),
            "silent_for": silent_for,
        }
    )


def lost(*hosts: Host) -> list[str]:
    return [host.name for host in detect_lost_hosts(hosts, after=AFTER).lost]


def test_a_host_is_lost_after_its_grace_period_without_heartbeats_and_not_sooner():
    others = [a_host(number) for number in range(1, 3)]

    assert lost(a_host(0, silent_for=59), *others) == []
    assert lost(a_host(0, silent_for=61), *others) == ["host-0"]


def test_no_host_is_lost_before_a_node_has_watched_it_for_the_grace_period():
    hosts = [a_host(0, silent_for=100_000), a_host(1)]

    assert detect_lost_hosts(hosts, after=AFTER, watched_for=timedelta(seconds=59)).lost == ()
    assert detect_lost_hosts(hosts, after=AFTER, watched_for=timedelta(seconds=61)).lost == (hosts[0],)


def test_a_host_whose_worker_shut_down_is_not_lost():
    assert lost(a_host(0, silent_for=1_000_000, left=True), a_host(1)) == []


def test_when_more_than_a_fifth_of_the_hosts_vanish_together_none_is_lost():
    gone = [a_host(number, silent_for=5000 + number) for number in range(3)]
    live = [a_host(number) for number in range(3, 14)]

    loss = detect_lost_hosts([*gone, *live], after=AFTER)

    assert loss.lost == ()
    assert loss.partition_suspected is not None
    assert "host-0, host-1 and host-2 fell silent together" in loss.partition_suspected


def test_a_fifth_of_the_hosts_that_vanish_together_is_lost():
    gone = [a_host(number, silent_for=100) for number in range(2)]

    assert len(lost(*gone, *(a_host(number) for number in range(2, 10)))) == 2


def test_hosts_that_vanish_one_after_another_are_each_lost():
    gone = [a_host(number, silent_for=100 + 200 * number) for number in range(3)]

    assert len(lost(*gone, a_host(4), a_host(5))) == 3


@given(st.lists(st.floats(min_value=0, max_value=100_000), min_size=1, max_size=40))
def test_a_live_host_is_never_lost(silences):
    hosts = [a_host(number, silent_for=silence) for number, silence in enumerate(silences)]

    assert not [host for host in detect_lost_hosts(hosts, after=AFTER).lost if host.live]


# Failover --------------------------------------------------------------------------------------------------------


@pytest.fixture
def controllers(node):
    return controllers_of(node)


def silence(redis, worker: ScriptedWorker, *, seconds: float = 100) -> None:
    """Backdates the host's last heartbeat and expires its claims."""
    redis.zadd(keys.HOSTS_SEEN, {worker.name: redis.time()[0] - seconds})
    for operation in redis.zrange(keys.ACTIVE, 0, -1):
        redis.delete(keys.claim(OperationId(operation)))


@pytest.mark.redis
def test_a_running_start_of_a_lost_host_continues_elsewhere_under_its_id(node, redis, redis_url, worker, controllers):
    other = ScriptedWorker(redis, "beta")
    (start,) = node.start()
    worker.claim_start(start["id"])
    waiting_on(redis_url, "cpu.amd64")
    silence(redis, worker)

    controllers.run_once()

    waits = node.operation(start["id"])
    assert (waits["state"], waits["host"]) == ("queued", None)
    assert "alpha is lost" in waits["reason"]
    assert waiting_on(redis_url, "cpu.amd64") == [start["id"]]
    assert other.claim_start(start["id"]).attempt == 3


@pytest.mark.redis
def test_the_copy_on_a_lost_host_is_stopped_and_its_fence_no_longer_counts(node, redis, redis_url, worker, controllers):
    ScriptedWorker(redis, "beta")
    (start,) = node.start()
    worker.is_ready(start)
    silence(redis, worker)

    controllers.run_once()

    (stop,) = waiting_on(redis_url, "host.alpha.stop")
    (again,) = waiting_on(redis_url, "cpu.amd64")[1:] or waiting_on(redis_url, "host.beta")
    fences = {id: node.operation(id)["fence"] for id in (start["id"], stop, again)}
    assert fences[start["id"]] < fences[stop] < fences[again]
    (instance,) = [each for each in node.get(f"/v1/services/{SERVICE}").json()["instances"] if "@alpha" in each["id"]]
    assert instance["desired"] == "stopped"


@pytest.mark.redis
def test_a_moved_instance_is_not_moved_twice(node, redis, redis_url, worker, controllers):
    ScriptedWorker(redis, "beta")
    (start,) = node.start()
    worker.is_ready(start)
    silence(redis, worker)
    controllers.run_once()
    before = len(node.get("/v1/operations").json()["items"])

    redis.delete(keys.UPKEEP)
    controllers.run_once()

    assert len(node.get("/v1/operations").json()["items"]) == before


@pytest.mark.redis
def test_the_copy_of_a_lost_host_is_no_longer_desired_once_it_lost_its_claim(node, redis, worker, controllers):
    ScriptedWorker(redis, "beta")
    (start,) = node.start()
    worker.begins(start)
    silence(redis, worker)
    claim = keys.claim(OperationId(start["id"]))
    redis.set(claim, "alpha in attempt 1", px=keys.CLAIM_TTL)

    controllers.run_once()
    while_claimed = (node.operation(start["id"])["host"], desired_on_alpha(node))
    redis.delete(claim, keys.UPKEEP)
    controllers.run_once()

    assert while_claimed == ("alpha", "running")
    assert (node.operation(start["id"])["host"], desired_on_alpha(node)) == (None, "stopped")


@pytest.mark.redis
def test_a_start_that_was_moved_keeps_its_order_and_may_return_to_the_host_that_is_back(
    node, redis, worker, controllers
):
    (start,) = node.start()
    before = worker.claim_start(start["id"])
    silence(redis, worker)

    controllers.run_once()
    ScriptedWorker(redis)

    again = worker.claim_start(start["id"])
    assert (again.order, again.operation.fence) == (before.order, start["fence"])


@pytest.mark.redis
def test_the_attempt_of_a_host_that_is_back_too_late_is_superseded(node, redis, worker, controllers):
    (start,) = node.start()
    late = worker.claim_start(start["id"]).attempt
    silence(redis, worker)

    controllers.run_once()

    status = ClaimStore(redis).renew(OperationId(start["id"]), worker.name, late)
    assert status is ClaimStatus.SUPERSEDED


def desired_on_alpha(node) -> str:
    (instance,) = [each for each in node.get(f"/v1/services/{SERVICE}").json()["instances"] if "@alpha" in each["id"]]
    return str(instance["desired"])


@pytest.mark.redis
def test_an_instance_pinned_to_the_lost_host_is_not_moved_and_its_running_operation_fails(
    node, redis, redis_url, worker, controllers
):
    ScriptedWorker(redis, "beta")
    (start,) = node.start(hosts=["alpha"])
    worker.claim_start(start["id"])
    silence(redis, worker)

    controllers.run_once()

    failed = node.operation(start["id"])
    assert failed["failure"]["code"] == "host_lost"
    assert waiting_on(redis_url, "cpu.amd64") == []


@pytest.mark.redis
def test_an_unclaimed_start_on_the_queue_of_a_lost_host_runs_elsewhere_and_says_so(
    node, redis, redis_url, worker, controllers
):
    (first,) = node.start()
    worker.is_ready(first)
    waiting_on(redis_url, "cpu.amd64")
    (again,) = node.post(f"/v1/services/{SERVICE}:restart").json()["operations"]
    ScriptedWorker(redis, "beta")
    silence(redis, worker)

    controllers.run_once()

    ended = node.operation(again["id"])
    assert (again["route"], ended["failure"]["code"]) == ("host.alpha", "host_lost")
    (moved,) = waiting_on(redis_url, "cpu.amd64")
    assert node.operation(moved)["fence"] > again["fence"]
    assert [each["desired"] for each in node.get(f"/v1/services/{SERVICE}").json()["instances"]] == ["stopped"]


@pytest.mark.redis
def test_a_start_pinned_to_the_lost_host_waits_for_it(node, redis, redis_url, worker, controllers):
    ScriptedWorker(redis, "beta")
    (start,) = node.start(hosts=["alpha"])
    silence(redis, worker)

    controllers.run_once()

    assert node.operation(start["id"])["state"] == "queued"
    assert waiting_on(redis_url, "cpu.amd64") == []


@pytest.mark.redis
def test_nothing_is_moved_while_no_other_host_can_run_it(node, redis, redis_url, worker, controllers):
    (start,) = node.start()
    worker.is_ready(start)
    waiting_on(redis_url, "cpu.amd64")
    silence(redis, worker)

    controllers.run_once()

    assert waiting_on(redis_url, "host.alpha.stop") == []
    assert waiting_on(redis_url, "cpu.amd64") == []


@pytest.mark.redis
def test_a_partitioned_node_that_misses_many_hosts_moves_nothing(node, redis, redis_url, controllers):
    workers = [ScriptedWorker(redis, f"host-{number}") for number in range(4)]
    (start,) = node.start()
    workers[0].is_ready(start)
    waiting_on(redis_url, "cpu.amd64")
    for worker in workers[:2]:
        silence(redis, worker)

    controllers.run_once()

    assert waiting_on(redis_url, "cpu.amd64") == []
    assert "host-0 and host-1 fell silent together" in node.get("/readyz").json()["suspicion"]


@pytest.mark.redis
def test_an_operation_without_events_is_redelivered(node, redis, redis_url, worker, controllers):
    (start,) = node.start()
    waiting_on(redis_url, "cpu.amd64")  # and its message is lost
    redis.zadd(keys.ACTIVE, {start["id"]: 0})

    controllers.run_once()

    assert waiting_on(redis_url, "cpu.amd64") == [start["id"]]
    assert node.operation(start["id"])["state"] == "queued"


@pytest.mark.redis
def test_a_start_that_moves_stops_the_copy_on_an_offline_host_once_the_new_one_is_ready(node, redis, redis_url, worker):
    ScriptedWorker(redis, "beta")
    for operation, host in zip(node.start(replicas=2), ("alpha", "beta"), strict=True):
        ScriptedWorker(redis, host).is_ready(operation)
    gamma = ScriptedWorker(redis, "gamma")
    silence(redis, worker)

    again = {each["route"]: each for each in node.start(replicas=2)}

    assert sorted(again) == ["host.beta", "host.gamma"]
    (stop,) = waiting_on(redis_url, "host.alpha.stop")
    assert worker.claim(stop) == NotClaimable("it waits for a start")
    gamma.is_ready(again["host.gamma"])
    assert isinstance(worker.claim(stop), Claimed)


@pytest.mark.redis
def test_a_start_that_moves_stops_the_copy_on_a_host_whose_docker_engine_is_unavailable(node, redis, redis_url, worker):
    ScriptedWorker(redis, "beta")
    for operation, host in zip(node.start(replicas=2), ("alpha", "beta"), strict=True):
        ScriptedWorker(redis, host).is_ready(operation)
    gamma = ScriptedWorker(redis, "gamma")
    ScriptedWorker(redis, "alpha", runtime_answers=False)

    again = {each["route"]: each for each in node.start(replicas=2)}

    assert sorted(again) == ["host.beta", "host.gamma"]
    (stop,) = waiting_on(redis_url, "host.alpha.stop")
    gamma.is_ready(again["host.gamma"])
    assert isinstance(worker.claim(stop), Claimed)
