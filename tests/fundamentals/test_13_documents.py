"""Documents are desired state: applied, they change exactly the containers that their plan names, and then nothing."""

from __future__ import annotations

from itertools import count
from typing import Any

from fundamentals.cluster import Api, Host
from fundamentals.test_11_plans import assert_as_planned, execute, ids
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aima_core.domain.ids import HostName

NUMBERS = count(1)
SPECS = st.fixed_dictionaries(
    {"model": st.just("Dial")},
    optional={
        "arguments": st.sampled_from([{"flood": 1}, {"flood": 2}]),
        "resources": st.sampled_from([{"memory": "20MB"}, {"memory": "900GB"}]),
        "labels": st.sampled_from([{"team": "speech"}, {"team": "text"}]),
        "hosts": st.sampled_from([["alpha"], ["beta"], ["alpha", "beta"]]),
        "desired": st.just("stopped"),
    },
)
Changes = list[dict[str, Any]]


def apply(api: Api, *documents: dict[str, Any], **more: Any) -> Any:
    return api.post("/v1/apply", {"documents": documents, **more})


def plan(api: Api, *documents: dict[str, Any], **more: Any) -> Changes:
    answer = api.post("/v1/apply:plan", {"documents": documents, **more})
    assert answer.is_success, answer.text
    items: Changes = answer.json()["items"]
    return items


def a_service(id: str, **fields: Any) -> dict[str, Any]:
    return {"kind": "service", "id": id, "model": "Dial", **fields}


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=st.lists(st.tuples(SPECS, SPECS), min_size=1, max_size=3))
def test_containers_change_exactly_as_the_plan_of_the_documents_says(
    api: Api, host: Host, other_host: Host, rounds: list[tuple[dict[str, Any], dict[str, Any]]]
) -> None:
    hosts = {host.name: host, other_host.name: other_host}
    first, second = f"svc-tiny-a{next(NUMBERS)}", f"svc-tiny-b{next(NUMBERS)}"
    for specs in rounds:
        host.beat()
        other_host.beat()
        documents = [a_service(id, **spec) for id, spec in zip((first, second), specs, strict=True)]
        before = {id: ids(hosts, id) for id in (first, second)}
        planned = plan(api, *documents)

        reply = apply(api, *documents)

        refused = any(each["failure"] for each in planned)
        assert reply.is_success != refused, (planned, reply.text)
        execute(api, hosts, reply.json().get("operations", []))
        after = {id: ids(hosts, id) for id in (first, second)}
        if refused:
            assert after == before
            continue
        for change in planned:
            for instance in change["instances"]:
                assert_change(instance, before[change["name"]], after[change["name"]])
        assert [each["action"] for each in plan(api, *documents)] == ["unchanged", "unchanged"]
        assert apply(api, *documents).json()["operations"] == []

    documents = [a_service(id, desired="stopped") for id in (first, second)]
    execute(api, hosts, apply(api, *documents).json()["operations"])
    assert {*ids(hosts, first).values(), *ids(hosts, second).values()} == {None}


def assert_change(
    instance: dict[str, Any], before: dict[HostName, str | None], after: dict[HostName, str | None]
) -> None:
    if instance["action"] == "stop":
        assert after[instance["host"]] is None, instance
    else:
        assert_as_planned(instance, before, after)


def test_one_wrong_document_keeps_all_from_being_written(api: Api, host: Host) -> None:
    documents = [a_service("svc-tiny-a"), a_service("svc-tiny-b", hosts=["nowhere"])]

    reply = apply(api, *documents, {"kind": "host", "name": "alpha", "labels": {"rack": "1"}})

    assert reply.json()["code"] == "documents_refused"
    assert "service svc-tiny-b: Unknown host: nowhere." in reply.json()["detail"]
    assert (api.get("/v1/services")["items"], api.operations()) == ([], [])
    assert api.get("/v1/hosts/alpha")["labels"] == {}


def test_what_a_document_leaves_out_has_its_default(api: Api, host: Host) -> None:
    execute(api, {host.name: host}, apply(api, a_service("svc-tiny-a", port=18503)).json()["operations"])

    [change] = plan(api, a_service("svc-tiny-a"))

    assert change["fields"] == [{"field": "port", "before": 18503, "after": None}]
    assert [(each["action"], each["fields"]) for each in change["instances"]] == [("recreate", ["port"])]


def test_a_plan_that_has_changed_since_it_was_shown_is_not_carried_out(api: Api, host: Host) -> None:
    document = a_service("svc-tiny-a")
    shown = api.post("/v1/apply:plan", {"documents": [document]}).json()["digest"]
    execute(api, {host.name: host}, apply(api, document).json()["operations"])

    reply = apply(api, {**document, "port": 18503}, expected=shown)

    assert (reply.status_code, reply.json()["code"]) == (409, "plan_changed")
    assert api.get("/v1/services/svc-tiny-a")["port"] is None


# Owners -----------------------------------------------------------------------------------------------------------


def test_pruning_removes_what_the_owner_applied_before_and_nothing_else(api: Api, host: Host) -> None:
    hosts = {host.name: host}
    for owner, service in [
        ("text", "svc-tiny-a"),
        ("text", "svc-tiny-b"),
        ("speech", "svc-tiny-c"),
        (None, "svc-tiny-d"),
    ]:
        execute(api, hosts, apply(api, a_service(service), owner=owner).json()["operations"])

    planned = plan(api, a_service("svc-tiny-a"), owner="text", prune=True)
    execute(api, hosts, apply(api, a_service("svc-tiny-a"), owner="text", prune=True).json()["operations"])
    apply(api, a_service("svc-tiny-a"), owner="text", prune=True)

    assert [(each["name"], each["action"]) for each in planned] == [
        ("svc-tiny-a", "unchanged"),
        ("svc-tiny-b", "remove"),
    ]
    assert [each["action"] for each in planned[1]["instances"]] == ["stop"]
    assert [each["id"] for each in api.get("/v1/services")["items"]] == ["svc-tiny-a", "svc-tiny-c", "svc-tiny-d"]
    assert host.container("svc-tiny-b") is None


def test_an_owner_stays_with_a_service_that_is_changed_otherwise(api: Api, host: Host) -> None:
    hosts = {host.name: host}
    execute(api, hosts, apply(api, a_service("svc-tiny-a"), owner="text").json()["operations"])

    execute(api, hosts, [api.operation(api.start("svc-tiny-a", port=18503))])
    kept = api.get("/v1/services/svc-tiny-a")
    apply(api, a_service("svc-tiny-a", port=18503), owner="speech")

    assert (kept["port"], kept["owner"]) == (18503, "text")
    assert api.get("/v1/services/svc-tiny-a")["owner"] == "speech"


def test_an_owner_is_required_for_pruning(api: Api, host: Host) -> None:
    reply = apply(api, a_service("svc-tiny-a"), prune=True)

    assert reply.json()["code"] == "invalid_request"
    assert "`prune` requires an `owner`" in reply.json()["detail"]


# Labels of hosts --------------------------------------------------------------------------------------------------


def test_labels_of_a_document_cover_those_that_the_host_announces(api: Api, host: Host) -> None:
    host.announce_labels(rack="1", room="cellar")

    apply(api, {"kind": "host", "name": "alpha", "labels": {"rack": "2", "team": "speech"}})
    host.announce_labels(rack="1", room="attic")

    assert api.get("/v1/hosts/alpha")["labels"] == {"rack": "2", "room": "attic", "team": "speech"}
    apply(api, {"kind": "host", "name": "alpha"})
    assert api.get("/v1/hosts/alpha")["labels"] == {"rack": "1", "room": "attic"}


def test_pruning_removes_labels_of_the_owner_only(api: Api, host: Host, other_host: Host) -> None:
    for owner, name in (("text", "alpha"), ("speech", "beta")):
        apply(api, {"kind": "host", "name": name, "labels": {"team": owner}}, owner=owner)

    apply(api, a_service("svc-tiny-a", desired="stopped"), owner="text", prune=True)

    assert [each["labels"] for each in api.get("/v1/hosts")["items"]] == [{}, {"team": "speech"}]


# Export -----------------------------------------------------------------------------------------------------------


def test_an_alias_may_lead_to_a_service_of_the_same_documents_and_to_no_unknown_one(api: Api, host: Host) -> None:
    alias = {"kind": "alias", "name": "gpt-4o", "targets": {"svc-tiny-a": 1}}

    [refused] = plan(api, alias)
    not_applied = apply(api, alias)
    planned = plan(api, alias, a_service("svc-tiny-a"))
    applied = apply(api, alias, a_service("svc-tiny-a"))

    assert (refused["action"], refused["failure"]["code"]) == ("refused", "alias_target_unknown")
    assert not_applied.status_code == 422
    assert [each["action"] for each in planned] == ["create", "create"]
    assert applied.status_code == 202
    assert api.get("/v1/aliases/gpt-4o")["targets"] == alias["targets"]


def test_pruning_removes_aliases_of_the_owner_only(api: Api, host: Host) -> None:
    apply(api, a_service("svc-tiny-a"))
    ours, theirs, by_hand = (
        {"kind": "alias", "name": name, "targets": {"svc-tiny-a": 1}} for name in ("ours", "theirs", "by-hand")
    )
    apply(api, ours, owner="text")
    apply(api, theirs, owner="speech")
    apply(api, by_hand)

    planned = plan(api, a_service("svc-tiny-a"), owner="text", prune=True)
    apply(api, a_service("svc-tiny-a"), owner="text", prune=True)

    assert [(each["name"], each["action"]) for each in planned if each["kind"] == "alias"] == [("ours", "remove")]
    assert [each["name"] for each in api.get("/v1/aliases")["items"]] == ["by-hand", "theirs"]


def test_an_export_is_what_was_applied(api: Api, host: Host) -> None:
    documents = [
        a_service("svc-tiny-a", hosts=["alpha"], resources={"memory": "32MB"}, limits={"memory": "64MiB"}),
        a_service("svc-tiny-b", arguments={"flood": 2, "last-words": "no"}, desired="stopped"),
        {"kind": "host", "name": "alpha", "labels": {"rack": "1"}},
        {"kind": "alias", "name": "gpt-4o", "targets": {"svc-tiny-a": 9, "svc-tiny-b": 0}, "fallback": ["svc-tiny-b"]},
    ]
    execute(api, {host.name: host}, apply(api, *documents).json()["operations"])

    exported = api.get("/v1/export")

    assert exported == {"documents": documents, "failures": []}
    assert [each["action"] for each in plan(api, *exported["documents"])] == ["unchanged"] * 4
    assert api.get("/v1/export?service=svc-tiny-b")["documents"] == [documents[1]]


def test_an_export_of_an_unknown_service_is_refused(api: Api, host: Host) -> None:
    reply = api.post("/v1/apply:plan", {"documents": [a_service("svc-tiny-a")]})

    assert [each["action"] for each in reply.json()["items"]] == ["create"]
    assert api.refusal("/v1/export?service=svc-tiny-a")["code"] == "unknown_service"
