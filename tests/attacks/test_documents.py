"""Documents from keys that may not apply them, and prunes of what belongs to others."""

from __future__ import annotations

from typing import Any

import pytest
from api.access.guarded import Guarded
from api.node import ScriptedWorker

from aima_core.redis import keys

pytestmark = pytest.mark.redis

SERVICE = {"kind": "service", "id": "svc-tiny-dial", "desired": "stopped"}


def applied_by(guarded: Guarded, owner: str, id: str) -> None:
    body = {"documents": [{**SERVICE, "id": id, "model": "Dial"}], "owner": owner}
    answer = guarded.ask("POST", "/v1/apply", json=body)
    assert answer.status_code == 202, answer.text


def services(guarded: Guarded) -> list[str]:
    return [each["id"] for each in guarded.ask("GET", "/v1/services").json()["items"]]


def test_a_key_without_the_scope_applies_nothing_and_may_only_look(guarded, redis):
    ScriptedWorker(redis)
    reader, infers = guarded.create("reader", "read"), guarded.create("app", "infer")
    body: dict[str, Any] = {"documents": [SERVICE, {"kind": "host", "name": "alpha", "labels": {"a": "b"}}]}

    refused = [guarded.ask("POST", "/v1/apply", key, json=body) for key in (reader, infers, None)]
    looked = [guarded.ask("POST", "/v1/apply:plan", key, json=body) for key in (reader, infers, None)]

    assert [each.status_code for each in refused] == [403, 403, 401]
    assert [each.status_code for each in looked] == [200, 403, 401]
    assert [each["action"] for each in looked[0].json()["items"]] == ["create", "change"]
    assert services(guarded) == []
    assert redis.hgetall(keys.HOST_LABELS) == {}


def test_only_an_admin_prunes(guarded, redis):
    ScriptedWorker(redis)
    applied_by(guarded, "text", "svc-tiny-old")
    operator = guarded.create("operator", "operate")
    body = {"documents": [SERVICE], "owner": "text", "prune": True}

    refused = guarded.ask("POST", "/v1/apply", operator, json=body)

    assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_scope")
    assert services(guarded) == ["svc-tiny-old"]
    guarded.ask("POST", "/v1/apply", json=body)
    assert services(guarded) == ["svc-tiny-dial"]


def test_a_prune_leaves_what_others_own_and_what_nobody_owns(guarded, redis):
    ScriptedWorker(redis)
    applied_by(guarded, "speech", "svc-tiny-theirs")
    guarded.ask("POST", "/v1/services", json={"id": "svc-tiny-nobodys", "model": "Dial"})
    forged = {"id": "svc-tiny-nobodys", "model": "Dial", "owner": "text"}

    answer = guarded.ask("POST", "/v1/services", json=forged)
    guarded.ask("POST", "/v1/apply", json={"documents": [SERVICE], "owner": "text", "prune": True})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert services(guarded) == ["svc-tiny-dial", "svc-tiny-nobodys", "svc-tiny-theirs"]


def test_an_owner_that_a_writer_in_redis_has_forged_is_not_pruned(guarded, redis):
    ScriptedWorker(redis)
    applied_by(guarded, "speech", "svc-tiny-theirs")
    record = redis.get(keys.service("svc-tiny-theirs"))
    redis.set(keys.service("svc-tiny-theirs"), record.replace("speech", "text"))

    guarded.ask("POST", "/v1/apply", json={"documents": [SERVICE], "owner": "text", "prune": True})
    exported = guarded.ask("GET", "/v1/export").json()

    assert services(guarded) == ["svc-tiny-dial", "svc-tiny-theirs"]
    assert [each["id"] for each in exported["documents"]] == ["svc-tiny-dial"]
    assert [each["code"] for each in exported["failures"]] == ["unverified_service"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"documents": [SERVICE] * 2}, 422),
        ({"documents": []}, 422),
        ({"documents": [{**SERVICE, "id": f"svc-tiny-{number}"} for number in range(1001)]}, 422),
        ({"documents": [{**SERVICE, "environment": {"X": "x" * (1 << 20)}}]}, 413),
        ({"documents": [{**SERVICE, "limits": {"memry": "1GB"}}]}, 422),
        ({"documents": [{**SERVICE, "environment": {"LD_PRELOAD": "x"}}]}, 422),
        ({"documents": [{**SERVICE, "id": "svc-tiny-dial", "owner": "me"}]}, 422),
        ({"documents": [{"kind": "key", "name": "root"}]}, 422),
        ({"documents": "x"}, 422),
    ],
    ids=["twice", "none", "too many", "too large", "unknown field", "variable", "owner", "unknown kind", "no list"],
)
def test_hostile_documents_are_refused_and_nothing_is_written(body, status, guarded, redis):
    answer = guarded.ask("POST", "/v1/apply", json=body)

    assert answer.status_code == status, answer.text
    assert answer.json()["code"] in ("invalid_request", "body_too_large")
    assert services(guarded) == []


def test_labels_that_another_writer_made_are_ignored(guarded, redis):
    ScriptedWorker(redis, labels={"rack": "1"})
    for forged in ("{", '{"labels": 1}', "[" * 100_000, b"\xff"):
        redis.hset(keys.HOST_LABELS, "alpha", forged)

        assert guarded.ask("GET", "/v1/hosts/alpha").json()["labels"] == {"rack": "1"}
