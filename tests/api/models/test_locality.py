"""Placement by what is on the hosts' disks: hosts with the model come first, and those without room for it wait."""

from __future__ import annotations

from typing import Any

import pytest
from api.node import Node, ScriptedWorker, waiting_on
from api.planning.test_placement import fill

from aima_core.domain.operations import PullModel
from aima_core.redis import keys

pytestmark = pytest.mark.redis

SERVICE = "svc-parrot-polly"
MB, GB = 10**6, 10**9
ROOM: dict[str, Any] = {"total": 100 * GB, "free": 50 * GB, "reserve": 5 * GB}


@pytest.fixture
def manifest(node, redis, origin):
    """Of the model, which a pull to a host has resolved that is away now."""
    away = ScriptedWorker(redis, "away", stored=[])
    [operation] = node.post("/v1/models/polly:pull", {"hosts": ["away"]}).json()["operations"]
    away.leave()
    return PullModel.model_validate_json(redis.hget(keys.operation(operation["id"]), "command")).manifest


def stored(manifest, received: int | None = None, **more: Any) -> dict[str, Any]:
    """The model as a host announces it: verified, or fetched so far."""
    has = {"model": manifest.model, "revision": manifest.revision, "name": manifest.name, "size": manifest.size}
    there = received is None
    return {**has, "received": manifest.size if there else received, "published": there, "verified": there, **more}


def a_host(redis, name: str, *models: dict[str, Any], **facts: Any) -> ScriptedWorker:
    return ScriptedWorker(redis, name, **{"stored": models, "memory": 5 * GB, "model_disk": ROOM} | facts)


def plan(node: Node, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = node.post(f"/v1/services/{SERVICE}:plan", {"route": "cpu.amd64"} | options).json()
    return found


def start(node: Node, **options: Any) -> list[dict[str, Any]]:
    return node.start(SERVICE, **{"route": "cpu.amd64"} | options)


# Locality is a score --------------------------------------------------------------------------------------------------


def test_replicas_go_to_hosts_with_the_fewest_bytes_to_fetch_and_then_the_most_free_memory(node, redis, manifest):
    a_host(redis, "partial", stored(manifest, 1000))
    a_host(redis, "there", stored(manifest))
    a_host(redis, "empty-and-free")
    a_host(redis, "empty")
    fill(redis, "there", 4)
    fill(redis, "empty", 1)

    operations = start(node, replicas=4)

    assert [each["route"] for each in operations] == ["host.there", "host.partial", "host.empty-and-free", "host.empty"]


def test_capacity_goes_before_the_model_that_is_there(node, redis, manifest):
    a_host(redis, "there", stored(manifest), memory=GB)
    a_host(redis, "free")
    fill(redis, "there", 1)

    operations = start(node, replicas=2)

    assert [(each["route"], bool(each["reason"])) for each in operations] == [
        ("host.free", False),
        ("host.there", True),
    ]


def test_of_a_class_the_host_with_the_model_is_notified_first_and_all_may_claim_it(node, redis, redis_url, manifest):
    a_host(redis, "a-empty")
    there = a_host(redis, "there", stored(manifest))
    waiting_on(redis_url, "cpu.amd64")

    [operation] = start(node)

    assert (operation["route"], operation["routes"], operation["host"]) == ("cpu.amd64", ["cpu.amd64"], None)
    assert waiting_on(redis_url, "cpu.amd64") == []
    assert waiting_on(redis_url, "host.there") == [operation["id"]]
    assert redis.hget(keys.operation(operation["id"]), "queue") == "cpu.amd64"  # by which it is redelivered
    there.leave()
    a_host(redis, "another").claim_start(operation["id"])


def test_a_full_host_with_the_model_is_not_notified_first(node, redis, redis_url, manifest):
    a_host(redis, "there", stored(manifest))
    a_host(redis, "empty")
    fill(redis, "there", 5)

    [operation] = start(node)

    assert operation["reason"] is None
    assert operation["id"] in waiting_on(redis_url, "cpu.amd64")


def test_where_all_hosts_are_alike_the_route_alone_chooses(node, redis, redis_url, manifest):
    a_host(redis, "a", stored(manifest))
    a_host(redis, "b", stored(manifest))

    [operation] = plan(node)["operations"]

    assert (operation["route"], operation["first"]) == ("cpu.amd64", None)


# Plans ----------------------------------------------------------------------------------------------------------------


def test_a_plan_names_the_bytes_to_fetch_and_the_time_by_the_measured_rate(node, redis, manifest):
    a_host(redis, "there", stored(manifest), fetch_rate=1000.0)
    a_host(redis, "partial", stored(manifest, manifest.size - 60_000), fetch_rate=1000.0)
    a_host(redis, "unmeasured")
    a_host(redis, "other-revision", stored(manifest) | {"name": "another"})
    ScriptedWorker(redis, "older")

    found = plan(node)

    assert {each["host"]: (each["to_fetch"], each["fetch_takes"]) for each in found["hosts"]} == {
        "away": (manifest.size, None),
        "there": (0, None),
        "partial": (60_000, "1m"),
        "unmeasured": (manifest.size, None),
        "other-revision": (manifest.size, None),
        "older": (None, None),
    }


@pytest.mark.parametrize("rate", [0.0, -1.0, 1e-300, float("inf")])
def test_a_rate_that_nobody_measures_gives_no_estimate(node, redis, manifest, rate):
    a_host(redis, "odd", fetch_rate=rate)

    [odd] = [each for each in plan(node)["hosts"] if each["host"] == "odd"]

    assert odd["fetch_takes"] in (None, "0s")


def test_before_the_source_is_resolved_the_size_in_the_catalog_counts(node, redis, overlay):
    a_host(redis, "empty")

    [host] = plan(node)["hosts"]

    assert host["to_fetch"] == MB


def test_a_plan_names_the_host_that_is_notified_first(node, redis, manifest):
    a_host(redis, "there", stored(manifest))
    a_host(redis, "empty")

    [operation] = plan(node)["operations"]

    assert (operation["route"], operation["host"], operation["first"]) == ("cpu.amd64", None, "there")


# Disk -----------------------------------------------------------------------------------------------------------------


def test_a_start_on_a_host_without_room_for_the_model_waits_with_the_numbers(node, redis, manifest):
    a_host(redis, "full", model_disk={"total": 100 * GB, "free": 5 * GB + MB // 10, "reserve": 5 * GB})

    [operation] = node.start(SERVICE, hosts=["full"])

    size = f"{manifest.size // 1000} kB"
    assert operation["reason"] == (
        f"full: needs {size} of disk for the model (host: 5 GB free, 5 GB reserved); it waits until that changes."
    )


def test_a_model_that_no_disk_can_hold_is_refused(node, redis, manifest):
    a_host(redis, "small", model_disk={"total": 100_000, "free": 100_000, "reserve": 0})

    answer = node.post(f"/v1/services/{SERVICE}:start", {"hosts": ["small"]})

    assert (answer.status_code, answer.json()["code"]) == (422, "requirements_not_met")
    assert "of disk for the model (host: 100 kB in all, 0 B reserved)" in answer.json()["detail"]


def test_a_start_is_placed_where_there_is_room(node, redis, manifest):
    a_host(redis, "a-full", model_disk={"total": 100 * GB, "free": 5 * GB, "reserve": 5 * GB}, memory=50 * GB)
    a_host(redis, "roomy")

    operations = start(node, replicas=2)

    assert [each["route"] for each in operations] == ["host.roomy", "host.a-full"]
    assert [bool(each["reason"]) for each in operations] == [False, True]


def test_a_host_that_has_the_model_needs_no_room_for_it(node, redis, manifest):
    a_host(redis, "there", stored(manifest), model_disk={"total": 100 * GB, "free": 0, "reserve": 5 * GB})

    [operation] = node.start(SERVICE, hosts=["there"])

    assert operation["reason"] is None


def test_a_host_whose_worker_announces_no_disk_is_not_hindered(node, redis, manifest):
    a_host(redis, "older", model_disk=None)

    [operation] = node.start(SERVICE, hosts=["older"])

    assert operation["reason"] is None
