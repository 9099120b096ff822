"""Changes of several instances and moves as an API node submits them, and an API node that is killed between writes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from api.node import SERVICE, Node, ScriptedWorker

from aima_api.http.schemas import ServiceOptions
from aima_api.specs.documents import ServiceDocument
from aima_api.submission import submitter
from aima_api.submission.documents import ApplyRequest, Documents
from aima_api.submission.starts import StartRequest, StartSubmission
from aima_core.domain.ids import OperationId, ServiceId
from aima_core.redis import keys
from aima_core.redis.scripts import Scripts
from aima_core.store.claims import ClaimStore, NotClaimable
from aima_core.store.operation_records import BATCH_SIZE
from aima_core.store.operations import OperationStore
from aima_core.trust.orders import Mandate

pytestmark = pytest.mark.redis


@pytest.fixture
def workers(redis) -> list[ScriptedWorker]:
    return [ScriptedWorker(redis, name) for name in ("alpha", "beta", "gamma")]


@pytest.fixture
def replicas(node: Node, workers: list[ScriptedWorker]) -> list[ScriptedWorker]:
    """Two ready replicas, and the workers of the hosts that have them."""
    started = node.start(replicas=2)
    hosts = {each["route"].removeprefix("host."): each for each in started}
    found = [worker for worker in workers if worker.name in hosts]
    for worker in found:
        worker.is_ready(hosts[worker.name], reports=True)
    return found


def start_of(redis: Any, operation: dict[str, Any]) -> dict[str, str]:
    record: dict[str, str] = redis.hgetall(keys.operation(OperationId(operation["id"])))
    return record


def test_the_starts_of_a_change_name_each_other(node, redis, replicas):
    changed = node.start(arguments={"flood": 1})

    ids = [operation["id"] for operation in changed]
    assert len(ids) == 2
    assert all(f'"change":["{ids[0]}","{ids[1]}"]' in start_of(redis, each)["command"] for each in changed)


def test_identical_changes_at_once_join_as_a_whole(node, replicas):
    first = node.start(arguments={"flood": 1})
    again = node.start(arguments={"flood": 1})

    assert {each["id"] for each in again} == {each["id"] for each in first}


def test_identical_changes_of_one_batch_join_as_a_whole(node, replicas):
    submission: StartSubmission = node.server.config.app.state.dependencies.starts
    request = StartRequest(ServiceId(SERVICE), ServiceOptions(arguments={"flood": 1}), Mandate("test"))

    first, again = submission.start_each([request, request])

    assert len(first) == 2
    assert {each.id for each in again} == {each.id for each in first}


def test_a_change_of_which_one_start_was_cancelled_is_started_again_as_a_whole(node, replicas):
    first = node.start(arguments={"flood": 1})
    node.post(f"/v1/operations/{first[0]['id']}:cancel")

    again = node.start(arguments={"flood": 1})

    assert not {each["id"] for each in again} & {each["id"] for each in first}
    assert {node.operation(each["id"])["state"] for each in first} == {"cancelled"}


def test_an_instance_whose_change_failed_elsewhere_takes_part_in_the_next_one(node, redis, replicas):
    one, other = replicas
    first = {each["route"]: each for each in node.start(arguments={"flood": 1})}
    one.is_ready(first[f"host.{one.name}"], reports=True, makes_current=False)
    node.post(f"/v1/operations/{first[f'host.{other.name}']['id']}:cancel")

    again = node.start(arguments={"flood": 1})

    assert {each["route"] for each in again} == {f"host.{one.name}", f"host.{other.name}"}


def test_a_stop_of_a_replaced_instance_waits_for_the_starts_and_leaves_it_desired(node, redis, replicas):
    node.post(f"/v1/hosts/{replicas[0].name}:drain", {"stop": False})
    operations = node.start(arguments={"flood": 1})
    starts, [stop] = operations[:-1], operations[-1:]

    claimed = ClaimStore(redis).claim(OperationId(stop["id"]), replicas[0].name)

    assert [each["kind"] for each in operations] == ["start", "start", "stop"]
    assert stop["route"] == f"host.{replicas[0].name}"
    assert "waits until" in stop["reason"]
    assert claimed == NotClaimable("it waits for a start")
    instances = node.get(f"/v1/services/{SERVICE}").json()["instances"]
    assert {each["desired"] for each in instances if each["host"] == replicas[0].name} == {"running"}
    assert start_of(redis, stop)["after"] == ",".join(each["id"] for each in starts)


def test_a_stop_of_a_replaced_instance_ends_with_a_start_that_failed(node, redis, replicas):
    node.post(f"/v1/hosts/{replicas[0].name}:drain", {"stop": False})
    *starts, stop = node.start(arguments={"flood": 1})
    node.post(f"/v1/operations/{starts[0]['id']}:cancel")

    claimed = ClaimStore(redis).claim(OperationId(stop["id"]), replicas[0].name)

    assert isinstance(claimed, NotClaimable)
    assert claimed.change_not_made


class Killed(BaseException):
    """No code of the API node runs any more."""


@pytest.fixture
def kill_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of writes after which the API node is killed; 0 for never. Its loops, in other threads, run on."""
    left, submitting = [0], threading.get_ident()

    def counted(name: str) -> None:
        original = getattr(Scripts, name)

        def call(self: Scripts, script: str, *args: Any) -> Any:
            result = original(self, script, *args)
            reads = script in ("services/placements", "allocations/list")
            if threading.get_ident() == submitting and not reads:
                left[0] -= 1
                if left[0] == 0:
                    raise Killed
            return result

        monkeypatch.setattr(Scripts, name, call)

    counted("__call__")
    counted("each")
    yield left


@pytest.mark.parametrize("options", [{"arguments": {"flood": 1}}, {"replicas": 1}, {"labels": {"team": "speech"}}])
def test_a_killed_api_node_leaves_a_change_wholly_submitted_or_not_at_all(node, replicas, kill_after, options):
    submission: StartSubmission = node.server.config.app.state.dependencies.starts
    request = StartRequest(ServiceId(SERVICE), ServiceOptions.model_validate(options), Mandate("test"))
    before = len(node.get("/v1/operations").json()["items"])
    outcomes, killed = set(), True

    for after in range(1, 9):
        kill_after[0] = after
        try:
            submission.start(request)
            killed = False
        except Killed:
            killed = True
        kill_after[0] = 0
        active = node.get("/v1/operations", params={"state": "queued"}).json()["items"]
        revision = node.get(f"/v1/services/{SERVICE}").json()["revision"]
        outcomes.add((len(active), revision))
        if not killed:
            break

    assert not killed
    assert before
    assert len(outcomes) <= 2, outcomes


def test_a_killed_api_node_stops_a_service_with_its_new_spec_or_leaves_both(node, replicas, kill_after):
    documents: Documents = node.server.config.app.state.dependencies.documents
    spec = {"kind": "service", "id": SERVICE, "replicas": 2, "priority": 3, "desired": "stopped"}
    request = ApplyRequest([ServiceDocument.model_validate(spec)], Mandate("test"))
    outcomes = list[tuple[int, int]]()

    while len(outcomes) < 9:
        kill_after[0] = len(outcomes) + 1
        with suppress(Killed):
            documents.apply(request)
        is_killed, kill_after[0] = kill_after[0] <= 0, 0
        stops = node.get("/v1/operations", params={"kind": "stop"}).json()["items"]
        outcomes.append((len(stops), node.get(f"/v1/services/{SERVICE}").json()["priority"]))
        if not is_killed or stops:
            break

    assert set(outcomes) == {(0, 0), (2, 3)}


def test_of_two_nodes_that_create_a_service_at_once_the_later_start_and_its_spec_win(node, workers, monkeypatch):
    """The other node creates the service while this one has reserved its fence and not yet enqueued its start."""
    reserve, host = OperationStore.reserve_fences, [workers[0].name]
    later = list[dict[str, Any]]()

    def reserve_and_wait(self: OperationStore, count: int) -> int:
        fence = reserve(self, count)
        monkeypatch.setattr(OperationStore, "reserve_fences", reserve)
        later.extend(node.start(port=20002, hosts=host))
        return fence

    monkeypatch.setattr(OperationStore, "reserve_fences", reserve_and_wait)
    submission: StartSubmission = node.server.config.app.state.dependencies.starts
    options = ServiceOptions.model_validate({"port": 20001, "hosts": host})
    [earlier] = submission.start(StartRequest(ServiceId(SERVICE), options, Mandate("test")))

    assert (earlier.state, node.operation(later[0]["id"])["state"]) == ("cancelled", "queued")
    assert earlier.failure is not None
    assert later[0]["id"] in earlier.failure.message
    assert node.get(f"/v1/services/{SERVICE}").json()["port"] == 20002


# More instances than a batch ------------------------------------------------------------------------------------------

MANY = 2 * BATCH_SIZE + 5


@pytest.fixture
def many_workers(redis) -> list[ScriptedWorker]:
    return [ScriptedWorker(redis, f"host-{number:03}") for number in range(MANY)]


@pytest.mark.parametrize("exists", [False, True], ids=["new", "changed"])
def test_an_api_node_killed_while_it_submits_many_instances_leaves_none_of_them(
    node, many_workers, monkeypatch, exists
):
    submission: StartSubmission = node.server.config.app.state.dependencies.starts
    node.start("svc-tiny-other", engine="dial-cpu", model="Dial")  # loads the script
    if exists:
        node.post("/v1/services", {"id": SERVICE, "replicas": MANY})
    request = StartRequest(ServiceId(SERVICE), ServiceOptions(replicas=MANY, priority=3), Mandate("test"))
    sign, left = submitter.sign_orders, [2]

    def sign_or_die(*args: Any) -> Any:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return sign(*args)

    monkeypatch.setattr(submitter, "sign_orders", sign_or_die)
    with pytest.raises(Killed):
        submission.start(request)

    assert left == [0]
    services = {each["id"]: each["priority"] for each in node.get("/v1/services").json()["items"]}
    assert [each["service"] for each in node.get("/v1/operations").json()["items"]] == ["svc-tiny-other"]
    assert services == {"svc-tiny-other": 0, **({SERVICE: 0} if exists else {})}


def test_a_change_of_many_instances_joins_another_as_a_whole_or_not_at_all(node, many_workers):
    for start, worker in zip(node.start(replicas=MANY), many_workers, strict=True):
        worker.is_ready(start)
    first = node.start(arguments={"flood": 1})
    node.post(f"/v1/operations/{first[-1]['id']}:cancel")

    again = node.start(arguments={"flood": 1})

    assert len(first) == len(again) == MANY
    assert not {each["id"] for each in again} & {each["id"] for each in first}


def test_the_events_of_many_instances_all_reach_a_follower(node, many_workers):
    with node.following(None) as stream:
        operations = node.start(replicas=MANY)
        queued = [next(stream).json()["operation"] for _ in operations]

    assert queued == [each["id"] for each in operations]
    assert node.server.config.app.state.hub.dropped == 0
