"""Placement: named hosts, replicas, classes of hosts; and the obstacles that refuse a request or leave it pending."""

from __future__ import annotations

from typing import Any

import pytest
from api.node import SERVICE, Node, ScriptedWorker

from aima_core.domain.ids import HostName, ServiceId
from aima_core.domain.resources import Allocation
from aima_core.redis.interface import TextRedis
from aima_core.store.allocations import AllocationStore
from aima_core.store.hosts import HostStore

pytestmark = pytest.mark.redis

VLLM = "svc-vllm-glm-4.7-flash"
GB = 10**9
SPARK: dict[str, Any] = {
    "arch": "arm64",
    "routes": ("gb10.arm64", "cpu.arm64"),
    "accelerators": [{"kind": "gb10", "name": "NVIDIA GB10", "id": "GPU-0"}],
    "gives_gpus": True,
    "unified_memory": True,
    "cores": 20,
    "memory": 128 * GB,
    "disk_free": 500 * GB,
}


def fill(redis: TextRedis, host: str, gigabytes: int) -> None:
    """Allocates memory of the host to another service."""
    held = Allocation(memory=gigabytes * GB, fence=1)
    AllocationStore(redis).keep(HostName(host), ServiceId("svc-vllm-other"), held)


def drain(redis: TextRedis, host: str) -> None:
    HostStore(redis).drain(HostName(host))


def refusal(node: Node, action: str, body: dict[str, Any]) -> tuple[str, str, str]:
    answer = node.post(action, body)
    assert answer.status_code == 422, answer.text
    return answer.json()["code"], answer.json()["detail"], answer.json()["hint"]


def routes_of(operations: list[dict[str, Any]]) -> list[str]:
    return [each["route"] for each in operations]


# Named hosts ------------------------------------------------------------------------------------------------------


def test_a_named_host_that_can_never_run_it_is_refused_with_every_reason(node, redis):
    ScriptedWorker(redis, "box", memory=8 * GB)

    code, detail, _ = refusal(node, f"/v1/services/{VLLM}:start", {"hosts": ["box"]})

    assert code == "requirements_not_met"
    assert detail.startswith("box cannot run vllm-0.14.0-cu131-gb10: needs arm64 (host: amd64), ")
    assert "8 cores (host: 2)" in detail


def test_one_unsuitable_named_host_keeps_everything_from_being_submitted(node, redis):
    ScriptedWorker(redis, "spark-01", **SPARK)
    ScriptedWorker(redis, "spark-02", **SPARK | {"allows": ("local/*",)})

    _, detail, _ = refusal(node, f"/v1/services/{VLLM}:start", {"hosts": ["spark-01", "spark-02"]})

    assert "spark-02 cannot run vllm-0.14.0-cu131-gb10: does not allow the image zhiwen-vllm:0128." in detail
    assert detail.endswith("Nothing was submitted to the other hosts either.")
    assert node.get("/v1/operations").json()["items"] == []
    assert node.get("/v1/services").json()["items"] == []


def test_a_service_that_its_hosts_can_never_run_is_not_created(node, redis):
    ScriptedWorker(redis, "box")

    code, _, _ = refusal(node, "/v1/services", {"id": VLLM, "hosts": ["box"]})

    assert code == "requirements_not_met"
    assert node.get("/v1/services").json()["items"] == []


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"runtime_answers": False}, "box: no Docker Engine answers"),
        ({"disk_free": 0, "runtime": "docker"}, "box: needs 2.4 GB of disk for the image (host: 0 B free)"),
    ],
)
def test_a_named_host_without_capacity_is_waited_for_with_the_reason(node, redis, facts, reason):
    ScriptedWorker(redis, "box", **facts)

    [operation] = node.start("svc-tts-qwen3-tts-0.6b", hosts=["box"])

    assert operation["state"] == "queued"
    assert operation["reason"].startswith(reason)


def test_a_named_host_that_is_drained_or_full_is_waited_for_with_the_reason(node, redis):
    for name in ("drained", "full"):
        ScriptedWorker(redis, name)
    drain(redis, "drained")
    fill(redis, "full", 5)

    drained, full = node.start(hosts=["drained", "full"])

    assert drained["reason"] == "drained: drained; it waits until that changes."
    assert full["reason"].startswith("full: needs ")


# Replicas ---------------------------------------------------------------------------------------------------------


def test_replicas_go_to_hosts_that_run_it_and_then_to_those_with_the_most_free_capacity(node, redis):
    for name, gigabytes in {"a": 2, "b": 1, "c": 0, "d": 4}.items():
        worker = ScriptedWorker(redis, name, memory=5 * GB)
        fill(redis, name, gigabytes)
    worker.is_ready(node.start(hosts=["d"])[0])

    operations = node.start(replicas=3)

    assert routes_of(operations) == ["host.d", "host.c", "host.b"]


def test_a_replica_may_wait_on_a_host_that_is_full_now(node, redis):
    ScriptedWorker(redis, "a")
    ScriptedWorker(redis, "b")
    fill(redis, "a", 5)

    operations = node.start(replicas=2)

    assert routes_of(operations) == ["host.b", "host.a"]
    assert operations[0]["reason"] is None
    assert operations[1]["reason"].startswith("a: needs ")


def test_drained_hosts_get_no_replica_and_are_named_in_the_refusal(node, redis):
    for name in ("a", "b", "c"):
        ScriptedWorker(redis, name)
    drain(redis, "a")

    _, detail, _ = refusal(node, f"/v1/services/{SERVICE}:start", {"replicas": 3})

    assert detail == "3 replicas were requested, and 2 live hosts can run dial-cpu. a: drained."


def test_replicas_of_a_route_are_hosts_that_consume_it(node, redis):
    ScriptedWorker(redis, "a")
    ScriptedWorker(redis, "b", arch="arm64", routes=("cpu.arm64",))

    _, detail, _ = refusal(node, f"/v1/services/{SERVICE}:start", {"replicas": 2, "route": "cpu.arm64"})

    assert "a: needs arm64 (host: amd64)" in detail


# Classes of hosts -------------------------------------------------------------------------------------------------


def test_a_requested_route_is_used_for_this_start_and_later_ones(node, redis):
    ScriptedWorker(redis, "a", arch="arm64", routes=("cpu.arm64",))
    ScriptedWorker(redis, "b")

    [first] = node.start(route="cpu.amd64")
    [again] = node.start()

    assert routes_of([first, again]) == ["cpu.amd64", "cpu.amd64"]
    assert first["routes"] == ["cpu.amd64"]


def test_a_route_can_be_that_of_a_single_host(node, worker):
    [operation] = node.start(route="host.alpha")

    assert operation["route"] == "host.alpha"


def test_a_route_that_the_engine_does_not_accept_is_refused_with_the_accepted_ones(node, worker):
    _, detail, hint = refusal(node, f"/v1/services/{VLLM}:start", {"route": "cpu.amd64"})

    assert detail == "vllm-0.14.0-cu131-gb10 does not run on hosts of cpu.amd64."
    assert "gb10.arm64" in hint


def test_hosts_and_a_route_are_mutually_exclusive(node, worker):
    _, detail, _ = refusal(node, f"/v1/services/{SERVICE}:start", {"route": "cpu.amd64", "hosts": ["alpha"]})

    assert "specify `hosts` or `route`, not both" in detail


def test_hosts_named_later_replace_the_route_and_the_other_way_round(node, redis):
    worker = ScriptedWorker(redis, "a")
    worker.is_ready(node.start(route="cpu.amd64", replicas=1)[0])

    worker.is_ready(node.start(hosts=["a"])[0])
    by_host = node.get(f"/v1/services/{SERVICE}").json()
    worker.is_ready(node.start(route="cpu.amd64")[0])
    by_route = node.get(f"/v1/services/{SERVICE}").json()

    assert (by_host["hosts"], by_host["route"]) == (["a"], None)
    assert (by_route["hosts"], by_route["route"]) == ([], "cpu.amd64")


def test_a_class_without_free_capacity_is_waited_for_with_the_reason_of_every_host(node, redis):
    for name in ("spark-01", "spark-02", "spark-03"):
        spark = ScriptedWorker(redis, name, **SPARK)
    fill(redis, "spark-01", 108)
    drain(redis, "spark-02")
    spark.leave()

    [operation] = node.start(VLLM)

    assert operation["route"] == "gb10.arm64"
    assert operation["reason"] == (
        "No host of gb10.arm64 has capacity now. spark-01: needs 92 GB memory (host: 20 GB free); "
        "spark-02: drained; spark-03: not live."
    )


def test_a_class_without_any_suitable_host_is_refused_as_such(node, redis):
    ScriptedWorker(redis, "spark-01", **SPARK | {"gives_gpus": False})

    refused = node.post(f"/v1/services/{VLLM}:start")

    assert (refused.status_code, refused.json()["code"]) == (422, "requirements_not_met")
    assert "cannot give GPUs to containers" in refused.json()["detail"]
    assert node.get("/v1/operations").json()["items"] == node.get("/v1/services").json()["items"] == []


def test_a_class_of_too_small_hosts_is_skipped_for_the_next_one(node, redis):
    ScriptedWorker(redis, "small", arch="arm64", routes=("cpu.arm64",), memory=GB // 100)
    ScriptedWorker(redis, "big")

    [operation] = node.start()

    assert (operation["route"], operation["reason"]) == ("cpu.amd64", None)


def test_a_start_does_not_return_to_a_former_host_that_is_drained(node, redis):
    alpha = ScriptedWorker(redis, "alpha")
    alpha.is_ready(node.start(hosts=["alpha"])[0])
    node.post("/v1/services", {"id": SERVICE})
    drain(redis, "alpha")
    ScriptedWorker(redis, "beta")

    [again] = node.start()

    assert (again["route"], again["reason"]) == ("cpu.amd64", None)


# Pulls ------------------------------------------------------------------------------------------------------------


def test_an_image_is_pulled_on_every_live_host_of_the_route(node, redis):
    for name in ("a", "b", "c"):
        worker = ScriptedWorker(redis, name)
    worker.leave()
    ScriptedWorker(redis, "d", arch="arm64", routes=("cpu.arm64",))
    drain(redis, "b")

    pulls = node.post("/v1/images:pull", {"image": "repo/name:1", "route": "cpu.amd64"}).json()["operations"]

    assert routes_of(pulls) == ["host.a", "host.b"]
    assert [each["reason"] for each in pulls] == [None, None]


def test_an_image_of_an_engine_is_pulled_on_every_live_host_that_can_run_it(node, redis):
    ScriptedWorker(redis, "spark-01", **SPARK)
    ScriptedWorker(redis, "spark-02", **SPARK)
    ScriptedWorker(redis, "box")

    pulls = node.post("/v1/images:pull", {"engine": "vllm-0.14.0-cu131-gb10"}).json()["operations"]

    assert routes_of(pulls) == ["host.spark-01", "host.spark-02"]


def test_a_pull_on_a_route_includes_hosts_that_do_not_allow_the_image_with_the_reason(node, redis):
    ScriptedWorker(redis, "a")
    ScriptedWorker(redis, "b", allows=("local/*",))

    pulls = node.post("/v1/images:pull", {"image": "repo/name:1", "route": "cpu.amd64"}).json()["operations"]

    assert routes_of(pulls) == ["host.a", "host.b"]
    assert pulls[1]["reason"].startswith("b: does not allow the image repo/name:1")


def test_a_pull_on_a_named_host_that_does_not_allow_the_image_is_refused(node, redis):
    ScriptedWorker(redis, "a")
    ScriptedWorker(redis, "b", allows=("local/*",))

    code, detail, _ = refusal(node, "/v1/images:pull", {"image": "repo/name:1", "hosts": ["a", "b"]})

    assert (code, "b cannot run image repo/name:1: does not allow" in detail) == ("requirements_not_met", True)
    assert node.get("/v1/operations").json()["items"] == []


def test_a_pull_on_a_route_without_consumers_waits_for_the_first_one(node, worker):
    [pull] = node.post("/v1/images:pull", {"image": "repo/name:1", "route": "gb10.arm64"}).json()["operations"]

    assert pull["route"] == "gb10.arm64"
    assert pull["reason"] == "No live host listens to gb10.arm64; it starts when one joins."
