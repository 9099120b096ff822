"""Prometheus metrics of an API node: its requests, and the operations and hosts in Redis."""

from __future__ import annotations

import pytest
from api.node import SERVICE, ScriptedWorker, api_node
from lab.parts import eventually
from prometheus_client.parser import text_string_to_metric_families

from aima_core.store.hosts import HostStore

pytestmark = pytest.mark.redis


def measured(node, name: str, **labels: str) -> float | None:
    """The value of the sample with this name and these labels, if there is one."""
    answer = node.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    return next((each.value for each in samples if each.name == name and each.labels == labels), None)


def test_requests_are_counted_by_route_and_status(node):
    for _ in range(3):
        node.get(f"/v1/services/{SERVICE}")
    node.get("/v1/hosts")
    node.get("/nowhere")
    node.client.request("INVENTED", "/v1/hosts")

    route = "/v1/services/{id}"
    assert measured(node, "aima_requests_total", method="GET", route=route, status="404") == 3
    assert measured(node, "aima_requests_total", method="GET", route="/v1/hosts", status="200") == 1
    assert measured(node, "aima_requests_total", method="none", route="none", status="404") == 1
    assert measured(node, "aima_request_seconds_count", method="GET", route=route) == 3
    assert measured(node, "aima_request_seconds_bucket", method="GET", route=route, le="+Inf") == 3
    assert "INVENTED" not in node.get("/metrics").text or "405" in node.get("/metrics").text


def test_operations_and_hosts_are_counted(node, worker, redis):
    gone = ScriptedWorker(redis, "beta")
    gone.leave()
    HostStore(redis).drain(worker.name)
    [operation] = node.start(hosts=["alpha"])

    assert measured(node, "aima_redis_up") == 1
    assert measured(node, "aima_operations", state="queued or running") == 1
    assert measured(node, "aima_operations", state="waiting for room") == 0
    assert measured(node, "aima_hosts", state="live") == 1
    assert measured(node, "aima_hosts", state="away") == 1
    assert measured(node, "aima_hosts_drained") == 1
    worker.is_ready(operation)
    assert measured(node, "aima_operations", state="queued or running") == 0


def test_malformed_messages_are_counted_by_the_host_that_dropped_them(node, worker, redis):
    ScriptedWorker(redis, "beta")
    HostStore(redis).count_dropped(worker.name, 2)
    HostStore(redis).count_dropped(worker.name, 1)

    assert measured(node, "aima_messages_dropped_total", host="alpha") == 3
    assert measured(node, "aima_messages_dropped_total", host="beta") == 0
    assert node.get("/v1/hosts/alpha").json()["messages_dropped"] == 3
    assert [each["messages_dropped"] for each in node.get("/v1/hosts").json()["items"]] == [3, 0]


def test_open_streams_are_counted(node, worker):
    [operation] = node.start()
    before = measured(node, "aima_event_streams")

    with node.following(operation["id"]):
        meanwhile = measured(node, "aima_event_streams")

    assert (before, meanwhile) == (0, 1)
    assert eventually(lambda: measured(node, "aima_event_streams") == 0)


def test_a_node_without_redis_exports_its_own_metrics(own_redis):
    with api_node(own_redis.url) as node:
        own_redis.kill()

        assert measured(node, "aima_redis_up") == 0
        assert measured(node, "aima_hosts", state="live") is None
        assert measured(node, "process_resident_memory_bytes") > 0
        own_redis.start()


def test_metrics_need_a_key_like_every_other_path(redis_url):
    with api_node(redis_url, keys=["a-key-of-16-chars"]) as node:
        without = node.get("/metrics")
        with_one = node.get("/metrics", headers={"Authorization": "Bearer a-key-of-16-chars"})

    assert (without.status_code, with_one.status_code) == (401, 200)
    assert 'aima_requests_total{method="none",route="none",status="401"} 1.0' in with_one.text
