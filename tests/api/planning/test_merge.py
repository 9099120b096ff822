"""The merge rule of specs: given fields change, absent ones stay, null removes; whatever the field."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from api.node import SERVICE, Node, ScriptedWorker
from hypothesis import given
from hypothesis import strategies as st

from aima_api.http.schemas import SPEC_FIELDS, ServiceOptions
from aima_api.planning.merge import changed_fields, merge_patch, merged_service
from aima_core.domain.ids import ServiceId
from aima_core.domain.services import Service

ID = ServiceId(SERVICE)
VALUES: dict[str, Any] = {
    "engine": "dial-cpu",
    "model": "Dial",
    "model_path": "some/where",
    "hosts": ["alpha", "beta"],
    "route": "cpu.amd64",
    "replicas": 3,
    "port": 20005,
    "expose": True,
    "arguments": {"flood": 3, "memory": 2},
    "resources": {"memory": "1000000000B", "cores": 2},
    "limits": {"pids": 100},
    "health": {"timeout": "5m"},
    "priority": 7,
    "labels": {"team": "speech", "tier": "gold"},
}
EXCLUSIVE = {"hosts": {"route", "replicas"}, "route": {"hosts"}, "replicas": {"hosts"}}
JSON = st.recursive(
    st.integers() | st.text(max_size=3) | st.booleans(),
    lambda values: st.dictionaries(st.text(max_size=2), values, max_size=3),
)
OBJECTS = st.dictionaries(st.text(max_size=2), JSON, max_size=4)


def a_service(**fields: Any) -> Service:
    return merged_service(Service(id=ID, created_at=datetime.now(UTC)), ID, ServiceOptions(**fields))


def test_every_field_of_the_spec_can_be_changed_by_a_request_and_is_tested_here() -> None:
    assert set(VALUES) | {"environment", "secrets", "pull"} >= SPEC_FIELDS
    assert set(ServiceOptions.model_fields) >= SPEC_FIELDS


@pytest.mark.parametrize("field", VALUES)
def test_a_given_field_changes_and_all_others_stay(field: str) -> None:
    others = {name: value for name, value in VALUES.items() if name not in {field, *EXCLUSIVE.get(field, ())}}
    others = {name: value for name, value in others.items() if name != "hosts"} if field != "hosts" else others
    before = a_service(**{name: value for name, value in others.items() if name not in ("route", "replicas")})

    after = merged_service(before, ID, ServiceOptions(**{field: VALUES[field]}))

    assert after.content == {**before.content, field: VALUES[field]}
    assert after.revision == before.revision + 1


@pytest.mark.parametrize("field", VALUES)
def test_null_removes_a_field_and_leaves_the_others(field: str) -> None:
    before = a_service(
        port=20001, labels={"a": "b"}, **{field: VALUES[field]} if field not in ("port", "labels") else {}
    )
    before = merged_service(before, ID, ServiceOptions(**{field: VALUES[field]}))

    after = merged_service(before, ID, ServiceOptions(**{field: None}))

    assert after.content == {name: value for name, value in before.content.items() if name != field}


@pytest.mark.parametrize(("field", "key"), [("arguments", "flood"), ("labels", "team"), ("resources", "cores")])
def test_maps_are_merged_per_key(field: str, key: str) -> None:
    before = a_service(**{field: VALUES[field]})

    without = merged_service(before, ID, ServiceOptions(**{field: {key: None}}))
    again = merged_service(without, ID, ServiceOptions(**{field: {key: VALUES[field][key]}}))

    assert without.content[field] == {name: value for name, value in VALUES[field].items() if name != key}
    assert again.content == before.content


def test_a_change_to_what_is_already_so_makes_no_revision() -> None:
    before = a_service(port=20001, arguments={"flood": 3})

    assert merged_service(before, ID, ServiceOptions(port=20001, arguments={"flood": 3})) is before


@given(target=OBJECTS, patch=OBJECTS)
def test_a_patch_without_null_is_idempotent_and_changes_the_fields_that_it_names(
    target: dict[str, Any], patch: dict[str, Any]
) -> None:
    merged = merge_patch(target, patch)

    assert merge_patch(merged, patch) == merged
    assert {name: merged[name] for name in target.keys() - patch.keys()} == {
        name: target[name] for name in target.keys() - patch.keys()
    }
    assert (changed_fields(merged, merge_patch(merged, patch))) == []


# Over HTTP --------------------------------------------------------------------------------------------------------

pytestmark = pytest.mark.redis


def test_a_set_changes_one_argument_and_keeps_the_others(node, worker):
    node.post("/v1/services", {"id": SERVICE, "arguments": {"flood": 3, "memory": 2}})

    [operation] = node.start(arguments={"flood": 5})

    command = worker.claim_start(operation["id"]).command
    assert (command.engine.arguments["flood"], command.engine.arguments["memory"]) == (5, 2)


def test_a_patch_changes_and_removes_without_starting(node, worker):
    node.post("/v1/services", {"id": SERVICE, "port": 20007, "arguments": {"flood": 3, "memory": 2}})

    patch = {"port": None, "arguments": {"flood": None}, "labels": {"team": "speech"}}
    changed = node.client.patch(f"/v1/services/{SERVICE}", json=patch)

    assert (changed.status_code, changed.json()["revision"]) == (200, 2)
    shown = node.get(f"/v1/services/{SERVICE}").json()
    assert (shown["port"], shown["arguments"], shown["labels"]) == (None, {"memory": 2}, {"team": "speech"})
    assert shown["changed_by"] == "(local)"
    assert node.get("/v1/operations").json()["items"] == []


def test_resources_limits_and_patience_replace_those_of_the_engine(node, worker):
    options = {"resources": {"memory": "100MB"}, "limits": {"pids": 99}, "health": {"timeout": "33s"}}

    [operation] = node.start(**options)

    engine = worker.claim_start(operation["id"]).command.engine
    assert (operation["needs"]["memory"], engine.limits.pids) == (100_000_000, 99)
    assert (engine.health_check.timeout.total_seconds(), engine.limits.memory) == (33, 64_000_000)


def test_patience_beyond_the_limit_of_the_engine_is_refused_with_the_way_out(node, worker):
    refused = node.post(f"/v1/services/{SERVICE}:start", {"health": {"timeout": "2h"}})

    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert "at_most" in refused.json()["detail"]


REFUSED = {
    "engine_does_not_serve": {"model": "GLM-4.7-Flash"},
    "unknown_model": {"model": "Nothing"},
    "unknown_argument": {"arguments": {"nothing": 1}},
    "requirements_not_met": {"resources": {"memory": "900GB"}},
}


def refusal(node: Node, path: str, spec: dict[str, Any]) -> dict[str, Any]:
    """The failure with which this spec is refused, or with which its plan or document is."""
    body: dict[str, Any] = spec
    if path.startswith("/v1/apply"):
        body = {"documents": [{"kind": "service", "id": SERVICE, **spec}]}
    elif path == "/v1/services":
        body = {"id": SERVICE, **spec}
    found: dict[str, Any] = node.post(path, body).json()
    [found] = found.get("items", [found])
    failure: dict[str, Any] = found.get("failure") or found
    return failure


@pytest.mark.parametrize("code", REFUSED)
@pytest.mark.parametrize(
    "path", ["/v1/services", f"/v1/services/{SERVICE}:start", f"/v1/services/{SERVICE}:plan", "/v1/apply:plan"]
)
def test_what_no_host_can_run_is_refused_alike_before_anything_is_written(node, worker, redis, path, code):
    before = sorted(redis.keys("aima:service*"))

    assert refusal(node, path, REFUSED[code])["code"] == code
    assert sorted(redis.keys("aima:service*")) == before
    assert node.get("/v1/operations").json()["items"] == []


@pytest.mark.parametrize("code", REFUSED)
@pytest.mark.parametrize("desired", ["running", "stopped"])
def test_a_document_that_no_host_can_run_is_refused_with_the_reason_and_nothing_is_written(node, worker, code, desired):
    [planned] = node.post(
        "/v1/apply:plan", {"documents": [{"kind": "service", "id": SERVICE, "desired": desired, **REFUSED[code]}]}
    ).json()["items"]

    refused = refusal(node, "/v1/apply", {"desired": desired, **REFUSED[code]})

    assert (planned["failure"]["code"], refused["code"]) == (code, "documents_refused")
    assert planned["failure"]["message"] in refused["detail"]
    assert (node.get("/v1/services").json()["items"], node.get("/v1/operations").json()["items"]) == ([], [])


@pytest.mark.parametrize(
    "path", ["/v1/services", f"/v1/services/{SERVICE}:start", f"/v1/services/{SERVICE}:plan", "/v1/apply:plan"]
)
def test_a_model_path_that_the_engine_does_not_read_is_refused(node, worker, path):
    refused = refusal(node, path, {"model_path": "some/where"})

    assert refused["code"] == "engine_does_not_serve"
    assert "some/where" in refused.get("message", "") + refused.get("detail", "")
    assert node.get("/v1/services").json()["items"] == []


def test_a_host_that_is_away_may_still_have_what_is_needed(node, redis):
    ScriptedWorker(redis, "big", memory=8 << 40).leave()
    ScriptedWorker(redis, "small")

    [operation] = node.start(resources={"memory": "900GB"})

    assert operation["state"] == "queued"


def test_a_pending_start_of_higher_priority_is_offered_to_hosts_first(node, redis):
    from aima_core.store.operations import OperationStore

    node.start()
    node.start("svc-asr-pocketsphinx-en-us", priority=5)

    pending = OperationStore(redis).list_pending()
    assert [each.service for each in pending] == ["svc-asr-pocketsphinx-en-us", SERVICE]
