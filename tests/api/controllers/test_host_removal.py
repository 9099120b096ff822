"""Forgetting a host that is gone for good: no key of it remains, and no operation stays queued for it."""

from __future__ import annotations

import json
import time

import pytest
from api.node import SERVICE, ScriptedWorker, waiting_on
from lab.keyspace import odd_keys

from aima_core.domain.hosts import HostUsage
from aima_core.domain.ids import InstanceId, OperationId, ServiceId
from aima_core.domain.resources import Allocation
from aima_core.errors import HostLives
from aima_core.queue.notifier import encode_message
from aima_core.redis import keys
from aima_core.store.allocations import AllocationStore
from aima_core.store.hosts import HostStore, Membership
from aima_core.store.operations import now
from aima_core.store.ports import PortStore

pytestmark = pytest.mark.redis

OTHER = "svc-asr-pocketsphinx-en-us"


def is_away(redis, worker: ScriptedWorker) -> None:
    """Backdates its last heartbeat until the host counts as dead."""
    redis.zadd(keys.HOSTS_SEEN, {worker.name: redis.time()[0] - keys.HOST_DEAD.total_seconds()})


def forget(node, host: str = "alpha"):
    return node.client.delete(f"/v1/hosts/{host}")


def everything(redis) -> dict[str, object]:
    """Every key with its value, except the controllers' lock, which expires by itself, and the audit log."""
    return {key: redis.dump(key) for key in redis.scan_iter() if key not in (keys.UPKEEP, keys.AUDIT)}


def named_after(redis, host: str) -> list[str]:
    """The keys with the host's name in them, and the keys about hosts or services whose values name it."""
    by_name = [key for key in redis.scan_iter() if host in key]
    inside = [
        key for key in (keys.HOSTS, keys.HOSTS_SESSIONS, keys.HOSTS_IDENTITIES) if host in str(redis.hgetall(key))
    ]
    inside += [key for key in (keys.DRAINED, keys.DROPPED, keys.SERVICES_AT) if host in str(redis.hgetall(key))]
    inside += [key for key in (keys.HOSTS_SEEN, keys.INSTANCES, keys.ROUTES) if host in str(redis.zrange(key, 0, -1))]
    return sorted(by_name + inside)


def test_no_key_of_a_forgotten_host_remains(node, redis, worker):
    ScriptedWorker(redis, "beta")
    worker.is_ready(node.start(hosts=["alpha"])[0])
    instance = ServiceId(SERVICE).on(worker.name)
    ports, hosts = PortStore(redis, worker.name), HostStore(redis)
    ports.set_range(range(20000, 20010))
    ports.persist(instance, ports.lease(instance, fence=1), fence=1)
    ports.lease(InstanceId("svc-tiny-removed@alpha"), fence=1)
    AllocationStore(redis).keep(worker.name, instance.service, Allocation(memory=1, gpus=(), loading=False, fence=1))
    hosts.drain(worker.name)
    hosts.count_dropped(worker.name, 1)
    redis.set(keys.last_lines(instance), "its last words")
    redis.set(keys.last_lines(InstanceId("svc-tiny-removed@alpha")), "its last words")
    redis.hset(keys.SERVICES_AT, mapping={SERVICE: "alpha", OTHER: "beta"})
    hosts.report_usage(HostUsage(host=worker.name, at=now(), cpu=1, memory=1, instances={}))
    redis.zadd(keys.slots(worker.name), {"an operation": 1})
    redis.zadd(keys.ROUTES, {"host.alpha": 1, "host.beta": 1})
    node.start(OTHER, hosts=["alpha"])
    node.post(f"/v1/services/{SERVICE}:stop")
    is_away(redis, worker)

    answer = forget(node)

    assert (answer.status_code, answer.content) == (204, b"")
    assert named_after(redis, "alpha") == []
    assert redis.hgetall(keys.SERVICES_AT) == {OTHER: "beta"}
    assert [host["name"] for host in node.get("/v1/hosts").json()["items"]] == ["beta"]
    assert odd_keys(redis) == []


def test_a_live_host_is_not_forgotten_and_nothing_changes(node, redis, worker):
    worker.is_ready(node.start()[0])
    node.start(OTHER, hosts=["alpha"])
    ScriptedWorker(redis, "beta")
    before = everything(redis)

    answer = forget(node)

    assert (answer.status_code, answer.json()["code"]) == (409, "host_lives")
    assert everything(redis) == before


def test_a_host_that_returns_while_it_is_being_forgotten_is_kept(node, redis, worker):
    """A race: the heartbeat arrives before the script that forgets the host, which reads Redis' own clock."""
    worker.is_ready(node.start(hosts=["alpha"])[0])
    before = everything(redis)

    with pytest.raises(HostLives):
        HostStore(redis).forget(worker.name)

    assert everything(redis) == before


def test_an_unknown_host_cannot_be_forgotten(node, redis, worker):
    is_away(redis, worker)

    answers = [forget(node), forget(node), forget(node, "nowhere")]

    assert [each.status_code for each in answers] == [204, 404, 404]
    assert {each.json()["code"] for each in answers[1:]} == {"unknown_host"}


def test_a_host_whose_worker_shut_down_can_be_forgotten_at_once(node, worker):
    worker.leave()

    assert forget(node).status_code == 204


def test_a_service_with_an_instance_there_can_be_removed_afterwards(node, redis, worker):
    worker.is_ready(node.start(hosts=["alpha"])[0])
    [stop] = node.post(f"/v1/services/{SERVICE}:stop").json()["operations"]
    is_away(redis, worker)
    before = node.client.delete(f"/v1/services/{SERVICE}")

    forget(node)

    assert before.status_code == 409
    assert node.operation(stop["id"])["failure"]["code"] == "host_lost"
    assert node.get(f"/v1/services/{SERVICE}").json()["instances"] == []
    assert node.client.delete(f"/v1/services/{SERVICE}").status_code == 204


def test_operations_that_only_the_forgotten_host_can_run_fail_whether_claimed_or_not(node, redis, worker):
    [queued] = node.start(hosts=["alpha"])
    [under_way] = node.start(OTHER, hosts=["alpha"])
    [pull] = node.post("/v1/images:pull", {"image": "tiny:1", "hosts": ["alpha"]}).json()["operations"]
    worker.claim_start(under_way["id"])
    is_away(redis, worker)

    forget(node)

    for operation in (queued, under_way, pull):
        record = node.operation(operation["id"])
        assert (record["state"], record["failure"]["code"]) == ("failed", "host_lost")
        assert "alpha" in record["failure"]["message"]
        assert [event.event for event in node.received(operation["id"])][-1] == "end"


def test_operations_that_other_hosts_can_run_continue_there_although_it_held_the_claim(node, redis, redis_url, worker):
    beta = ScriptedWorker(redis, "beta")
    [start] = node.start(route="cpu.amd64")
    worker.claim_start(start["id"])
    waiting_on(redis_url, "cpu.amd64")
    is_away(redis, worker)

    forget(node)

    assert node.operation(start["id"])["state"] == "queued"
    assert waiting_on(redis_url, "cpu.amd64") == [start["id"]]
    assert beta.claim_start(start["id"]).attempt == 3


def test_instances_that_can_run_elsewhere_are_started_elsewhere(node, redis, redis_url, worker):
    worker.is_ready(node.start()[0])
    ScriptedWorker(redis, "beta")
    waiting_on(redis_url, "cpu.amd64")
    is_away(redis, worker)

    forget(node)

    [start] = waiting_on(redis_url, "cpu.amd64") or waiting_on(redis_url, "host.beta")
    assert node.operation(start)["service"] == SERVICE


def test_instances_of_other_hosts_are_unchanged(node, redis, worker):
    beta = ScriptedWorker(redis, "beta")
    beta.is_ready(node.start(hosts=["beta"])[0])
    [start] = node.start(OTHER, hosts=["beta"])
    is_away(redis, worker)

    forget(node)

    [instance] = node.get(f"/v1/services/{SERVICE}").json()["instances"]
    assert (instance["id"], instance["state"]) == (f"{SERVICE}@beta", "ready")
    assert node.operation(start["id"])["state"] == "queued"
    assert beta.claim_start(start["id"]).attempt == 1


def test_a_message_delivered_to_its_worker_is_not_requeued(node, redis, worker):
    ScriptedWorker(redis, "beta")
    for host in ("alpha", "beta"):
        [start] = node.start(hosts=[host])
        operation = node.server.config.app.state.dependencies.operations.get(OperationId(start["id"]))
        handed_out = [json.loads(encode_message(operation, f"host.{host}")), "", f"host.{host}"]
        redis.hset(keys.queue("unacked"), f"delivered to {host}", json.dumps(handed_out))
        redis.zadd(keys.queue("unacked_index"), {f"delivered to {host}": time.time()})
    redis.hset(keys.queue("unacked"), "no JSON", "no JSON")
    is_away(redis, worker)

    forget(node)

    assert set(redis.hgetall(keys.queue("unacked"))) == {"delivered to beta", "no JSON"}
    assert redis.zrange(keys.queue("unacked_index"), 0, -1) == ["delivered to beta"]


def test_a_forgotten_host_that_returns_joins_as_a_new_one(node, redis, worker):
    is_away(redis, worker)
    HostStore(redis).drain(worker.name)
    forget(node)

    pulse = HostStore(redis).heartbeat(worker.name, identity="identity of alpha", session="the test's")
    ScriptedWorker(redis)

    assert pulse.membership is Membership.UNKNOWN
    host = node.get("/v1/hosts/alpha").json()
    assert (host["live"], host["drained"]) == (True, False)
    assert node.start(hosts=["alpha"])
