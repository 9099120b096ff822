"""Plan previews: where a start would go, without a change in Redis."""

from __future__ import annotations

from typing import Any

import pytest
from api.node import SERVICE, Node, ScriptedWorker
from api.planning.test_placement import SPARK, VLLM, drain, fill
from lab.parts import eventually

from aima_core.redis import keys
from aima_core.redis.interface import TextRedis

pytestmark = pytest.mark.redis
LLAMA = "svc-llamacpp-smollm2-135m"


def plan(node: Node, service: str = SERVICE, **options: Any) -> dict[str, Any]:
    answer = node.post(f"/v1/services/{service}:plan", options)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def why_not(found: dict[str, Any]) -> dict[str, list[str]]:
    return {each["host"]: [reason["obstacle"] for reason in each["why_not"]] for each in found["hosts"]}


def everything(redis: TextRedis) -> dict[str, tuple[bytes, bool]]:
    """Every key with its value, and whether it has a TTL."""
    return {
        key: (redis.execute_command("DUMP", key, NEVER_DECODE=True), redis.pttl(key) >= 0) for key in redis.keys("*")
    }


def test_a_plan_names_the_host_and_the_resources(node, redis):
    ScriptedWorker(redis, "spark-01", **SPARK | {"images": [{"reference": "zhiwen-vllm:0128", "digest": None}]})

    found = plan(node, VLLM, hosts=["spark-01"], port=20005)

    assert (found["verdict"], found["failure"]) == ("starts", None)
    assert (found["engine"], found["model"]) == ("vllm-0.14.0-cu131-gb10", "GLM-4.7-Flash")
    weights = {"model": "glm-4.7-flash", "name": None, "size": 60 * 10**9, "path": "GLM-4.7-Flash"}
    needs = {"memory": 32 * 10**9, "gpus": 1, "gpu_memory": 60 * 10**9, "cores": 8}
    assert found["needs"] == needs | {"weights": weights}
    [operation] = found["operations"]
    assert (operation["route"], operation["host"], operation["port"]) == ("host.spark-01", "spark-01", 20005)
    assert (operation["image"], operation["image_there"]) == ("zhiwen-vllm:0128", True)


def test_a_plan_uses_the_image_that_the_host_allows(node, redis):
    ScriptedWorker(redis, "spark-01", **SPARK | {"allows": ("docker.1ms.run/*",)})

    [operation] = plan(node, VLLM, hosts=["spark-01"])["operations"]

    assert (operation["image"], operation["image_there"]) == (
        "docker.1ms.run/scitrera/dgx-spark-vllm:0.14.0-t5",
        False,
    )


def test_a_plan_gives_the_reasons_of_every_ineligible_host(node, redis):
    small = SPARK | {"memory": 64 * 10**9, "disk_free": 10**9, "runtime": "docker"}
    for name, facts in {"ok": SPARK, "drained": SPARK, "full": SPARK, "small": small, "box": {}}.items():
        ScriptedWorker(redis, name, **facts)
    ScriptedWorker(redis, "away", **SPARK).leave()
    ScriptedWorker(redis, "strict", **SPARK | {"allows": ("local/*",)})
    drain(redis, "drained")
    fill(redis, "full", 100)

    found = plan(node, VLLM)

    assert found["verdict"] == "starts"
    assert why_not(found) == {
        "away": ["offline"],
        "box": ["arch", "cores", "disk", "memory", "gpus"],
        "drained": ["drained"],
        "full": ["memory"],
        "ok": [],
        "small": ["disk", "memory"],
        "strict": ["image_not_allowed"],
    }
    assert [each["host"] for each in found["hosts"] if each["would_do"]] == ["ok"]


def test_a_plan_of_a_start_that_would_wait_gives_the_reason(node, redis):
    ScriptedWorker(redis, "spark-01", **SPARK)
    fill(redis, "spark-01", 100)

    found = plan(node, VLLM)

    assert (found["verdict"], found["failure"]["code"]) == ("waits", "would_wait")
    assert found["operations"][0]["route"] == "gb10.arm64"
    assert "spark-01: needs 92 GB memory (host: 28 GB free)" in found["failure"]["message"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"replicas": 3}, "invalid_request"),
        ({"hosts": ["box"]}, "requirements_not_met"),
        ({"hosts": ["spark-01"], "port": 80}, "port_out_of_range"),
    ],
)
def test_a_plan_of_a_start_that_would_be_refused_says_so_and_lists_the_hosts(node, redis, options, code):
    ScriptedWorker(redis, "spark-01", **SPARK)
    ScriptedWorker(redis, "box")

    found = plan(node, VLLM, **options)

    assert (found["verdict"], found["failure"]["code"], found["operations"]) == ("refused", code, [])
    assert set(why_not(found)) == {"spark-01", "box"}


@pytest.mark.parametrize(
    ("service", "options", "code"),
    [
        ("svc-tiny-nothing", {}, "unknown_model"),
        (SERVICE, {"hosts": ["nowhere"]}, "unknown_host"),
        (SERVICE, {"engine": "nothing"}, "unknown_engine"),
        (VLLM, {"route": "cpu.amd64"}, "invalid_request"),
    ],
)
def test_a_plan_of_an_invalid_start_is_refused(node, worker, service, options, code):
    answer = node.post(f"/v1/services/{service}:plan", options)

    assert answer.json()["code"] == code


@pytest.mark.parametrize(
    ("where", "state"),
    [
        ({}, {"route": "cpu.amd64"}),
        ({"hosts": ["alpha"]}, {"route": "host.alpha"}),
        ({"replicas": 2}, {"route": "host.alpha"}),
        ({"route": "cpu.amd64"}, {"route": "cpu.amd64"}),
    ],
)
def test_a_start_does_what_its_plan_said(node, redis, where, state):
    ScriptedWorker(redis, "alpha", memory=6 * 10**9)
    ScriptedWorker(redis, "beta")

    planned = plan(node, **where)["operations"]
    started = node.start(**where)

    assert planned[0]["route"] == state["route"]
    assert [each["route"] for each in planned] == [each["route"] for each in started]


def test_a_plan_changes_nothing(node, redis):
    worker = ScriptedWorker(redis, "alpha")
    worker.is_ready(node.start(hosts=["alpha"])[0])
    ScriptedWorker(redis, "beta")
    fill(redis, "beta", 4)
    assert eventually(lambda: redis.xlen(keys.AUDIT) == 1)
    before = everything(redis)

    plan(node)
    plan(node, "svc-tiny-dial", replicas=2, port=20005)
    plan(node, VLLM)
    plan(node, VLLM, hosts=["beta"])

    assert everything(redis) == before


def test_an_upgrade_that_gives_engines_names_replaces_nothing_that_runs(node, redis):
    worker = ScriptedWorker(redis)
    [start] = node.start(LLAMA)
    worker.is_ready(start, reports=True)  # as a worker of an earlier version, which knows no names

    found = plan(node, LLAMA)

    assert (found["verdict"], found["operations"]) == ("unchanged", [])
    [instance] = found["instances"]
    assert (instance["action"], instance["fields"]) == ("unchanged", [])
    assert f"aima service restart {LLAMA}" in instance["reason"]
