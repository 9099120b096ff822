"""Profiles: the hosts that match one, and its services planned and started together, all of them or none."""

from __future__ import annotations

from typing import Any

import pytest
from api.node import Node, ScriptedWorker
from api.planning.test_placement import SPARK, drain, fill

from aima_core.redis.interface import TextRedis

pytestmark = pytest.mark.redis

NAME = "nvidia-gb10"
LLM, ASR, TTS = "svc-vllm-glm-4.7-flash", "svc-asr-sensevoicesmall", "svc-tts-qwen3-tts-0.6b"
GB = 10**9


def a_spark(redis: TextRedis, name: str = "spark-01", **facts: Any) -> ScriptedWorker:
    return ScriptedWorker(redis, name, **{**SPARK, "memory_reserve": 13 * GB, **facts})


def mismatches(node: Node) -> dict[str, list[str]]:
    hosts = node.get(f"/v1/profiles/{NAME}").json()["hosts"]
    return {each["host"]: [reason["sentence"] for reason in each["why_not"]] for each in hosts}


def apply(node: Node, *hosts: str) -> Any:
    return node.post(f"/v1/profiles/{NAME}:apply", {"hosts": hosts})


def verdicts(node: Node) -> list[tuple[str, str]]:
    plans = node.post(f"/v1/profiles/{NAME}:plan").json()["items"]
    return [(each["service"], each["verdict"]) for each in plans]


def test_a_profile_names_its_services_the_largest_first(node):
    [listed] = node.get("/v1/profiles").json()["items"]

    assert [each["service"] for each in listed["services"]] == [LLM, ASR, TTS]
    assert listed["services"][0]["engine"] == "vllm-0.14.0-cu131-gb10"
    assert (listed["name"], listed["memory"]) == (NAME, f"{128 * GB}B")


def test_a_host_matches_if_it_is_live_and_of_the_profiles_kind(node, redis):
    a_spark(redis, "spark", memory=120 * GB)  # less than its nominal memory, as firmware leaves it
    a_spark(redis, "small", memory=64 * GB)
    a_spark(redis, "few", cores=8)
    a_spark(redis, "apart", unified_memory=False)
    a_spark(redis, "away").leave()
    ScriptedWorker(redis, "box", cores=64, memory=200 * GB)

    found = mismatches(node)

    assert found["spark"] == []
    assert found["small"] == ["needs 128 GB memory (host: 64 GB)"]
    assert found["few"] == ["needs 20 cores (host: 8)"]
    assert found["apart"] == ["has no memory that CPU and GPU share"]
    assert found["away"] == ["not live"]
    assert found["box"][0] == "needs arm64 (host: amd64)"


def test_applied_it_starts_all_services_together_on_every_host_that_matches(node, redis):
    a_spark(redis, "spark-01")
    a_spark(redis, "spark-02")
    drain(redis, a_spark(redis, "spark-03").name)
    ScriptedWorker(redis, "box")

    started = apply(node)

    assert started.status_code == 202, started.text
    operations = started.json()["operations"]
    assert [each["service"] for each in operations] == [LLM, LLM, ASR, ASR, TTS, TTS]
    assert {each["route"] for each in operations} == {"host.spark-01", "host.spark-02"}
    assert sorted({each["fence"] for each in operations}) == [each["fence"] for each in operations]
    assert node.get(f"/v1/services/{TTS}").json()["engine"] == "qwen-tts-cpu"


def test_what_runs_as_the_profile_asks_is_unchanged(node, redis):
    worker = a_spark(redis)
    for operation in apply(node).json()["operations"]:
        worker.is_ready(operation, reports=True)

    again = apply(node).json()

    assert (again["operations"], again["unchanged"]) == ([], True)
    assert verdicts(node) == [(LLM, "unchanged"), (ASR, "unchanged"), (TTS, "unchanged")]


def test_the_memory_of_its_services_is_counted_together_and_none_starts_if_one_would_wait(node, redis):
    a_spark(redis)
    fill(redis, "spark-01", 16)  # 115 GB without the reserve: room for 92 + 4 GB, and for no 4 more

    refused = apply(node)

    assert verdicts(node) == [(LLM, "starts"), (ASR, "starts"), (TTS, "waits")]
    assert (refused.status_code, refused.json()["code"]) == (409, "profile_does_not_fit")
    assert "spark-01: needs 4 GB memory (host: 3 GB free)" in refused.json()["detail"]
    assert node.get("/v1/services").json()["items"] == []
    assert node.get("/v1/operations").json()["items"] == []


def test_a_named_host_need_not_match_the_profile(node, redis):
    a_spark(redis, "few", cores=8)

    assert apply(node, "few").status_code == 202


@pytest.mark.parametrize("action", ["plan", "apply"])
def test_without_a_host_that_matches_it_is_refused_with_what_each_lacks(node, redis, action):
    ScriptedWorker(redis, "box")
    drain(redis, a_spark(redis, "spark-01").name)

    refused = node.post(f"/v1/profiles/{NAME}:{action}")

    assert refused.json()["code"] == "no_host_matches"
    assert "box: needs arm64 (host: amd64)" in refused.json()["detail"]
    assert "spark-01: drained" in refused.json()["detail"]


def test_an_unknown_profile_is_refused_with_the_closest_name(node):
    for answer in (node.get("/v1/profiles/nvidia-gb1"), node.post("/v1/profiles/nvidia-gb1:apply")):
        assert answer.json()["code"] == "unknown_profile"
        assert "Nearest: nvidia-gb10." in answer.json()["hint"]
