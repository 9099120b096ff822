"""Desired state: what runs as asked stays, identical starts join, later ones supersede, and revisions are kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from api.node import SERVICE, Node, ScriptedWorker, api_node

from aima_api.http.schemas import ServiceOptions
from aima_api.submission.starts import StartRequest, StartSubmission
from aima_core.domain.ids import ServiceId
from aima_core.domain.operations import StartService
from aima_core.domain.services import InstanceState
from aima_core.trust.orders import Mandate

pytestmark = pytest.mark.redis


def plan(node: Node, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = node.post(f"/v1/services/{SERVICE}:plan", options).json()
    return found


def actions(node: Node, **options: Any) -> list[tuple[str, str | None]]:
    return [(each["action"], each["host"]) for each in plan(node, **options)["instances"]]


# Unchanged, joined, superseded --------------------------------------------------------------------------------------


def test_starting_what_already_runs_as_asked_answers_unchanged_and_submits_nothing(node, worker):
    worker.is_ready(node.start(port=20005)[0], reports=True)
    before = len(node.get("/v1/operations").json()["items"])

    planned = plan(node, port=20005)
    answers = [node.post(f"/v1/services/{SERVICE}:start", body).json() for body in ({}, {"port": 20005})]

    assert answers == 2 * [{"operations": [], "unchanged": True}]
    assert planned["verdict"] == "unchanged"
    assert len(node.get("/v1/operations").json()["items"]) == before
    assert node.get(f"/v1/services/{SERVICE}").json()["revision"] == 1


def test_a_label_changes_without_a_start(node, worker):
    worker.is_ready(node.start()[0], reports=True)

    answer = node.post(f"/v1/services/{SERVICE}:start", {"labels": {"team": "speech"}}).json()

    assert answer["unchanged"]
    service = node.get(f"/v1/services/{SERVICE}").json()
    assert (service["revision"], service["labels"]) == (2, {"team": "speech"})


def test_identical_starts_at_once_join_one_operation(node, worker):
    with ThreadPoolExecutor(3) as crowd:
        answers = list(crowd.map(lambda _: node.start(port=20005), range(3)))

    assert len({operation["id"] for operations in answers for operation in operations}) == 1
    assert [each["id"] for each in node.get("/v1/operations").json()["items"]] == [answers[0][0]["id"]]


def test_identical_starts_of_one_batch_join_one_operation(node, worker):
    submission: StartSubmission = node.server.config.app.state.dependencies.starts
    request = StartRequest(ServiceId(SERVICE), ServiceOptions(port=20005), Mandate("test"))

    answers = submission.start_each([request, request])

    [id] = {operation.id for operations in answers for operation in operations}
    assert [len(operations) for operations in answers] == [1, 1]
    assert [(each["id"], each["state"]) for each in node.get("/v1/operations").json()["items"]] == [(id, "queued")]


def test_an_identical_start_on_another_api_node_joins_one_that_runs(node, worker, redis_url):
    [first] = node.start(arguments={"flood": 3})
    worker.begins(first)

    with api_node(redis_url) as other:
        [second] = other.start(arguments={"flood": 3})

    assert second["id"] == first["id"]


def test_a_start_after_an_identical_one_was_cancelled_is_a_new_one(node, worker):
    [first] = node.start()
    node.post(f"/v1/operations/{first['id']}:cancel")

    [second] = node.start()

    assert second["id"] != first["id"]


def test_a_start_after_an_identical_one_that_is_being_cancelled_is_a_new_one(node, worker):
    [first] = node.start()
    worker.begins(first)
    node.post(f"/v1/operations/{first['id']}:cancel")

    [second] = node.start()

    assert second["id"] != first["id"]


def test_a_start_that_waits_ends_superseded_by_a_different_one_which_it_names(node):
    [first] = node.start(port=20005)

    [second] = node.start(port=20006)

    ended = node.operation(first["id"])
    assert (ended["state"], ended["failure"]["code"]) == ("cancelled", "superseded")
    assert second["id"] in ended["failure"]["message"]
    assert node.operation(second["id"])["state"] == "queued"


def test_a_start_on_one_host_supersedes_none_on_another(node, redis):
    workers = [ScriptedWorker(redis, name) for name in ("alpha", "beta")]
    for worker, start in zip(workers, node.start(hosts=["alpha", "beta"]), strict=True):
        worker.is_ready(start, reports=True)
    [alpha] = node.post(f"/v1/services/{SERVICE}:restart", {"hosts": ["alpha"]}).json()["operations"]

    node.post(f"/v1/services/{SERVICE}:restart", {"hosts": ["beta"]})

    assert node.operation(alpha["id"])["state"] == "queued"


# Candidates ---------------------------------------------------------------------------------------------------------


def test_a_changed_spec_is_stored_when_its_engine_is_ready_and_not_before(node, worker):
    worker.is_ready(node.start()[0], reports=True)

    [change] = node.start(port=20009)
    before = node.get(f"/v1/services/{SERVICE}").json()["port"]
    worker.is_ready(change, reports=True)

    assert (before, node.get(f"/v1/services/{SERVICE}").json()["port"]) == (None, 20009)


def test_a_change_that_failed_does_not_stick(node, worker):
    worker.is_ready(node.start()[0], reports=True)
    [change] = node.start(port=20009)
    node.post(f"/v1/operations/{change['id']}:cancel")

    [again] = node.start(arguments={"flood": 3})

    command = worker.claim_start(again["id"]).command
    assert isinstance(command, StartService)
    assert (command.port, command.engine.arguments["flood"]) == (None, 3)


def test_a_change_during_another_change_contains_both(node, worker):
    worker.is_ready(node.start()[0], reports=True)
    node.start(port=20009)

    [second] = node.start(arguments={"flood": 3})

    command = worker.claim_start(second["id"]).command
    assert isinstance(command, StartService)
    assert (command.port, command.engine.arguments["flood"]) == (20009, 3)


def test_a_label_given_during_a_change_does_not_make_the_change_current_before_it_is_ready(node, worker):
    worker.is_ready(node.start()[0], reports=True)
    node.start(port=20009)

    answer = node.post(f"/v1/services/{SERVICE}:start", {"labels": {"team": "speech"}})

    assert answer.status_code == 202
    assert node.get(f"/v1/services/{SERVICE}").json()["port"] is None
    for operation in node.get("/v1/operations", params={"state": "queued"}).json()["items"]:
        worker.is_ready(operation, reports=True)
    service = node.get(f"/v1/services/{SERVICE}").json()
    assert (service["port"], service["labels"]) == (20009, {"team": "speech"})


def test_a_stored_spec_is_not_changed_during_a_change(node, worker):
    worker.is_ready(node.start()[0], reports=True)
    [change] = node.start(port=20009)

    patched = node.client.patch(f"/v1/services/{SERVICE}", json={"labels": {"team": "speech"}})
    created = node.post("/v1/services", {"id": SERVICE})
    worker.is_ready(change, reports=True)

    assert [(each.status_code, each.json()["code"]) for each in (patched, created)] == 2 * [
        (409, "operation_in_progress")
    ]
    assert change["id"] in patched.json()["detail"]
    assert node.get(f"/v1/services/{SERVICE}").json()["port"] == 20009


def test_changes_made_at_once_are_all_kept(node):
    node.post("/v1/services", {"id": SERVICE})
    labels = [f"label-{number}" for number in range(24)]

    with ThreadPoolExecutor(8) as clients:
        answers = [
            clients.submit(node.client.patch, f"/v1/services/{SERVICE}", json={"labels": {label: "set"}})
            for label in labels
        ]

    assert {each.result().status_code for each in answers} == {200}
    service = node.get(f"/v1/services/{SERVICE}").json()
    assert (sorted(service["labels"]), service["revision"]) == (sorted(labels), 1 + len(labels))


def test_a_rollback_of_a_service_that_does_not_run_waits_for_the_end_of_its_change(node):
    node.post("/v1/services", {"id": SERVICE, "port": 20001})
    node.client.patch(f"/v1/services/{SERVICE}", json={"port": 20002})
    node.start(port=20003)

    refused = node.post(f"/v1/services/{SERVICE}:rollback").json()

    assert refused["code"] == "operation_in_progress"
    assert node.get(f"/v1/services/{SERVICE}").json()["port"] == 20002


@pytest.mark.parametrize(("options", "keeps"), [({}, False), ({"on_failure": "keep"}, True)])
def test_a_failed_candidate_is_kept_only_on_request(node, worker, options, keeps):
    [start] = node.start(**options)

    assert worker.claim_start(start["id"]).command.keep_failed is keeps
    assert "on_failure" not in node.get(f"/v1/services/{SERVICE}").json()


# Revisions ----------------------------------------------------------------------------------------------------------


def test_the_last_ten_revisions_are_kept_with_what_changed_and_by_whom(node):
    node.post("/v1/services", {"id": SERVICE, "port": 20001})
    for port in range(20002, 20013):
        node.client.patch(f"/v1/services/{SERVICE}", json={"port": port})

    items = node.get(f"/v1/services/{SERVICE}/revisions").json()["items"]

    assert [each["revision"] for each in items] == list(range(12, 2, -1))
    assert [each["current"] for each in items] == [True] + 9 * [False]
    assert (items[0]["changed"], items[0]["changed_by"]) == (["port"], "(local)")
    assert node.get(f"/v1/services/{SERVICE}/revisions/5").json()["port"] == 20005
    assert node.get(f"/v1/services/{SERVICE}/revisions/2").json()["code"] == "unknown_revision"


def test_a_rollback_starts_an_earlier_spec_as_a_new_revision(node, worker):
    worker.is_ready(node.start(port=20001)[0], reports=True)
    worker.is_ready(node.start(port=20002)[0], reports=True)
    worker.is_ready(node.start(port=20003, arguments={"flood": 3})[0], reports=True)

    answer = node.post(f"/v1/services/{SERVICE}:rollback", {"to": 1})
    worker.is_ready(answer.json()["operations"][0], reports=True)

    service = node.get(f"/v1/services/{SERVICE}").json()
    assert (answer.status_code, service["revision"], service["port"], service["arguments"]) == (202, 4, 20001, {})


def test_a_rollback_of_a_service_that_does_not_run_changes_its_spec_only(node):
    node.post("/v1/services", {"id": SERVICE, "port": 20001})
    node.client.patch(f"/v1/services/{SERVICE}", json={"port": 20002})

    answer = node.post(f"/v1/services/{SERVICE}:rollback")

    assert answer.json() == {"operations": [], "unchanged": False}
    assert node.get(f"/v1/services/{SERVICE}").json()["port"] == 20001
    assert node.get("/v1/operations").json()["items"] == []


def test_a_repeated_rollback_of_a_service_that_does_not_run_is_made_once(node):
    node.post("/v1/services", {"id": SERVICE, "port": 20001})
    node.client.patch(f"/v1/services/{SERVICE}", json={"port": 20002})

    for _ in range(2):
        answer = node.post(f"/v1/services/{SERVICE}:rollback", headers={"Idempotency-Key": "once"})
        assert answer.json() == {"operations": [], "unchanged": False}

    service = node.get(f"/v1/services/{SERVICE}").json()
    assert (service["revision"], service["port"]) == (3, 20001)


def test_an_unknown_revision_cannot_be_rolled_back_to(node):
    node.post("/v1/services", {"id": SERVICE})

    answer = node.post(f"/v1/services/{SERVICE}:rollback")

    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_revision")


# Plans --------------------------------------------------------------------------------------------------------------


def test_a_plan_names_what_happens_to_each_instance(node, redis):
    for name in ("alpha", "beta", "gamma"):
        ScriptedWorker(redis, name)
    first, second = node.start(hosts=["alpha", "beta"])
    ScriptedWorker(redis, "alpha").is_ready(first, reports=True)
    ScriptedWorker(redis, "beta").is_ready(second, reports=True)

    assert actions(node) == [("unchanged", "alpha"), ("unchanged", "beta")]
    assert actions(node, port=20001) == [("recreate", "alpha"), ("recreate", "beta")]
    assert actions(node, hosts=["alpha", "gamma"]) == [("unchanged", "alpha"), ("create", "gamma")]
    assert actions(node, resources={"memory": "900GB"}) == [("refused", "alpha"), ("refused", "beta")]


def test_a_plan_names_the_fields_for_which_a_container_is_replaced(node, worker):
    worker.is_ready(node.start(arguments={"flood": 1, "memory": 2})[0], reports=True)

    [instance] = plan(node, port=20001, arguments={"flood": 2})["instances"]

    assert (instance["action"], instance["fields"]) == ("recreate", ["arguments.flood", "port"])


def test_a_plan_of_several_compares_each_with_the_revision_that_its_instance_runs(node, worker):
    ran = {"svc-tiny-a": {"port": 20001}, "svc-tiny-b": {"arguments": {"flood": 1}}}
    for id, options in ran.items():
        worker.is_ready(node.start(id, engine="dial-cpu", model="Dial", **options)[0], reports=True)
        node.post(f"/v1/services/{id}:start", {"labels": {"team": "speech"}})

    asked = [{"id": id, "priority": 5, "environment": {"THREADS": "2"}} for id in ran]
    plans = node.post("/v1/services:plan", {"services": asked}).json()["items"]

    fields = {each["service"]: each["instances"][0]["fields"] for each in plans}
    assert fields == {id: ["environment.THREADS", "labels.team", "priority"] for id in ran}


def test_a_plan_of_what_is_being_started_says_so(node, worker):
    node.start()

    assert actions(node) == [("unchanged", None)]


def test_an_unhealthy_instance_is_planned_to_be_replaced_and_is(node, worker, redis):
    worker.is_ready(node.start()[0], reports=True)
    instance = worker._services.instance(ServiceId(SERVICE).on(worker.name))
    worker._services.update_status(instance.model_copy(update={"state": InstanceState.UNHEALTHY}))

    planned = actions(node)
    [start] = node.start()

    assert planned == [("recreate", "alpha")]
    assert worker.claim_start(start["id"]).command.replace
