"""Draining and resuming hosts."""

from __future__ import annotations

import pytest
from api.node import SERVICE, ScriptedWorker

from aima_core.store.services import ServiceStore

pytestmark = pytest.mark.redis

OTHER = "svc-asr-pocketsphinx-en-us"


def test_a_drained_host_is_shown_as_drained_with_the_time(node, worker):
    answer = node.post("/v1/hosts/alpha:drain")

    host = node.get("/v1/hosts/alpha").json()
    assert (answer.status_code, answer.json()["operations"]) == (202, [])
    assert (host["live"], host["drained"]) == (True, True)
    assert host["drained_since"] == answer.json()["host"]["drained_since"] is not None
    assert node.get("/v1/hosts").json()["items"][0]["drained"] is True


def test_draining_twice_changes_nothing(node, worker):
    since = node.post("/v1/hosts/alpha:drain").json()["host"]["drained_since"]

    again = node.post("/v1/hosts/alpha:drain").json()["host"]["drained_since"]

    assert again == since


def test_a_resumed_host_is_no_longer_drained_and_resuming_twice_changes_nothing(node, worker):
    node.post("/v1/hosts/alpha:drain")

    first, again = (node.post("/v1/hosts/alpha:resume") for _ in range(2))

    assert (first.status_code, again.status_code) == (200, 200)
    assert [first.json()["drained"], again.json()["drained_since"]] == [False, None]


@pytest.mark.parametrize("action", ["drain", "resume"])
def test_an_unknown_host_cannot_be_drained(node, action):
    answer = node.post(f"/v1/hosts/nowhere:{action}")

    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_host")
    assert node.get("/v1/hosts").json()["items"] == []


def test_an_offline_host_can_be_drained(node, worker):
    worker.leave()

    host = node.post("/v1/hosts/alpha:drain").json()["host"]

    assert (host["live"], host["drained"]) == (False, True)


def test_instances_on_a_drained_host_keep_running(node, worker):
    worker.is_ready(node.start()[0])

    node.post("/v1/hosts/alpha:drain")

    [instance] = node.get(f"/v1/services/{SERVICE}").json()["instances"]
    assert (instance["state"], instance["desired"]) == ("ready", "running")


def test_instances_on_a_drained_host_no_longer_serve_until_it_is_resumed(node, worker, redis):
    [start] = node.start()
    worker.is_ready(start)

    serving = []
    for action in (None, "drain", "resume"):
        if action:
            node.post(f"/v1/hosts/alpha:{action}")
        [instance] = node.get(f"/v1/services/{SERVICE}").json()["instances"]
        [read] = ServiceStore(redis).instances_on(worker.name)  # as a gateway does
        serving.append((instance["state"], instance["serving"], read.serving))

    assert serving == [("ready", True, True), ("ready", False, False), ("ready", True, True)]


def test_draining_with_stop_stops_present_and_pending_instances_there_and_none_elsewhere(node, redis):
    alpha, beta = ScriptedWorker(redis, "alpha"), ScriptedWorker(redis, "beta")
    alpha.is_ready(node.start(hosts=["alpha"])[0])
    beta.is_ready(node.start(hosts=["beta"])[0])
    [coming] = node.start(OTHER, route="cpu.amd64")
    alpha.claim_start(coming["id"])

    answer = node.post("/v1/hosts/alpha:drain", {"stop": True})

    stops = answer.json()["operations"]
    assert answer.status_code == 202
    assert [(each["kind"], each["service"], each["route"]) for each in stops] == [
        ("stop", OTHER, "host.alpha"),
        ("stop", SERVICE, "host.alpha"),
    ]


def test_draining_with_stop_under_one_idempotency_key_stops_once(node, worker):
    worker.is_ready(node.start()[0])
    key = {"Idempotency-Key": "once"}

    first = node.post("/v1/hosts/alpha:drain", {"stop": True}, headers=key)
    again = node.post("/v1/hosts/alpha:drain", {"stop": True}, headers=key)

    assert [each["id"] for each in first.json()["operations"]] == [each["id"] for each in again.json()["operations"]]


def test_a_start_avoids_a_drained_host_and_uses_it_again_once_it_is_resumed(node, redis):
    alpha = ScriptedWorker(redis, "alpha")
    alpha.is_ready(node.start()[0])
    ScriptedWorker(redis, "beta")

    node.post("/v1/hosts/alpha:drain")
    [drained] = node.start(replicas=1)
    node.post("/v1/hosts/alpha:resume")
    [resumed] = node.start(port=20001)

    assert drained["route"] == "cpu.amd64"
    assert resumed["route"] == "host.alpha"


def test_an_unknown_field_of_a_drain_is_refused(node, worker):
    answer = node.post("/v1/hosts/alpha:drain", {"force": True})

    assert answer.status_code == 422
    assert node.get("/v1/hosts/alpha").json()["drained"] is False
