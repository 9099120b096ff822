"""Models as they can be started: the services that start each, and the hosts that have its files or could run it."""

from __future__ import annotations

from typing import Any

import pytest
from api.node import Node, ScriptedWorker
from api.planning.test_placement import SPARK, drain, fill

pytestmark = pytest.mark.redis

GLM, VLLM = "GLM-4.7-Flash", "svc-vllm-glm-4.7-flash"
SMOLLM, LLAMA = "SmolLM2-135M", "svc-llamacpp-smollm2-135m"
LLAMA_IMAGE = [{"reference": "aima/llamacpp-smollm2:1", "digest": None}]


def model(node: Node, name: str) -> dict[str, Any]:
    found: dict[str, Any] = node.get(f"/v1/models/{name}").json()
    return found


def able(node: Node, name: str) -> list[str]:
    [service] = model(node, name)["services"].values()
    hosts: list[str] = service["hosts"]
    return hosts


def test_a_model_names_the_service_that_starts_it_with_its_engine(node):
    found = {each["name"]: each for each in node.get("/v1/models").json()["items"]}

    assert {id: each["engine"] for id, each in found[GLM]["services"].items()} == {VLLM: "vllm-0.14.0-cu131-gb10"}
    assert [*found[SMOLLM]["services"]] == [LLAMA]
    assert (found[GLM]["type"], found[GLM]["size"]) == ("llm", f"{60 * 10**9}B")
    assert found[GLM] == model(node, GLM)


def test_every_id_that_a_model_names_is_planned_with_the_engine_that_it_names(node):
    for each in node.get("/v1/models").json()["items"]:
        for id, service in each["services"].items():
            assert node.post(f"/v1/services/{id}:plan").json()["engine"] == service["engine"]


def test_hosts_with_the_weights_and_capacity_could_run_it_now(node, redis):
    ScriptedWorker(redis, "has-it", **SPARK | {"models": [GLM]})
    ScriptedWorker(redis, "has-part", **SPARK | {"models": [f"{GLM}/shards"]})
    ScriptedWorker(redis, "has-another", **SPARK | {"models": [f"{GLM}-2", "other"]})
    ScriptedWorker(redis, "unknown", **SPARK)
    ScriptedWorker(redis, "small", models=[GLM])

    assert model(node, GLM)["files"] == ["has-it", "has-part", "small"]
    assert able(node, GLM) == ["has-it", "has-part", "unknown"]


def test_a_host_that_is_drained_full_or_away_could_not_run_it_now(node, redis):
    for name in ("drained", "full", "free"):
        ScriptedWorker(redis, name, **SPARK | {"models": [GLM]})
    ScriptedWorker(redis, "away", **SPARK | {"models": [GLM]}).leave()
    drain(redis, "drained")
    fill(redis, "full", 100)

    assert able(node, GLM) == ["free"]
    assert model(node, GLM)["files"] == ["away", "drained", "free", "full"]


def test_a_model_in_an_image_that_is_never_pulled_runs_where_the_image_was_built(node, redis):
    ScriptedWorker(redis, "built", images=LLAMA_IMAGE)
    ScriptedWorker(redis, "bare")

    assert model(node, SMOLLM)["files"] == able(node, SMOLLM) == ["built"]


@pytest.mark.parametrize("wrong", ["svc-vllm-glm-4.7-flsh", "svc-vlm-glm-4.7-flsh", "svc-vllm-glm-4-flash"])
def test_a_misspelled_id_is_answered_with_the_id_that_starts_a_model(node, wrong):
    answer = node.post(f"/v1/services/{wrong}:start")

    assert VLLM in answer.json()["hint"]
