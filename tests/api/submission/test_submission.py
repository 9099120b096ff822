"""Submission: from a start, stop, pull or cancel to signed operations and their messages on the queue."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from api.node import SERVICE, ScriptedWorker, waiting_on
from lab.commands import KEYS, SIGNING_KEY
from lab.parts import eventually

from aima_api.planning.placement import Target
from aima_api.submission.cancellation import Cancellations
from aima_api.submission.submitter import BacklogLimit, Submitter
from aima_core.domain.ids import InstanceId, OperationId, Route, ServiceId
from aima_core.domain.operations import Operation, Phase, PullImage, StartService, StopService
from aima_core.domain.services import Desired, InstanceState
from aima_core.errors import BrokerUnavailable, OrderRefused
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.store.operation_records import BATCH_SIZE, QueuedOperation
from aima_core.store.operations import OperationStore
from aima_core.store.services import ServiceStore
from aima_core.trust.keys import SigningKey
from aima_core.trust.orders import Mandate, Order

pytestmark = pytest.mark.redis


@pytest.fixture
def services(redis):
    return ServiceStore(redis)


def test_a_start_is_recorded_signed_and_enqueued(node, worker, redis_url):
    [operation] = node.start(arguments={"load-seconds": "5"}, port=20005)

    claimed = worker.claim_start(operation["id"])
    assert waiting_on(redis_url, "cpu.amd64") == [operation["id"]]
    order = Order.read(claimed.order, KEYS)
    order.check(claimed.operation, claimed.command_text)
    assert (order.fence, order.routes) == (operation["fence"], ("cpu.arm64", "cpu.amd64"))
    assert order.not_after - order.not_before == timedelta(days=1)
    assert isinstance(claimed.command, StartService)
    assert claimed.command.engine.arguments["load-seconds"] == 5
    assert claimed.command.port == 20005
    assert claimed.command.model is not None


def test_the_requirements_of_a_start_are_recorded_with_it(node, worker):
    [operation] = node.start()

    assert operation["needs"]["memory"] > 0
    assert operation["routes"] == ["cpu.arm64", "cpu.amd64"]
    assert operation == node.operation(operation["id"])


def test_concurrent_different_starts_each_get_their_own_result_and_one_supersedes_the_others(node, worker):
    ports = [20001, 20002, 8080, 20004, 20005]

    with ThreadPoolExecutor(len(ports)) as crowd:
        answers = list(crowd.map(lambda port: node.post(f"/v1/services/{SERVICE}:start", {"port": port}), ports))

    assert [answer.status_code for answer in answers] == [202, 202, 422, 202, 202]
    accepted = [answer.json()["operations"] for answer in answers if answer.status_code == 202]
    ended = [node.operation(operation["id"]) for [operation] in accepted]
    assert len({operation["id"] for operation in ended}) == 4
    [left] = [operation for operation in ended if operation["state"] == "queued"]
    assert [each["failure"]["code"] for each in ended if each is not left] == 3 * ["superseded"]
    assert worker.claim_start(left["id"]).command.port in ports


def test_an_order_is_valid_for_its_own_operation_only(node, worker):
    first, second = (worker.claim_start(node.start(port=port)[0]["id"]) for port in (20001, 20002))

    with pytest.raises(OrderRefused, match="it is for operation"):
        Order.read(first.order, KEYS).check(second.operation, first.command_text)


def test_a_start_that_no_host_can_claim_waits_for_any_suitable_host_and_says_so(node, redis, redis_url):
    [operation] = node.start()

    record = node.operation(operation["id"])
    assert (record["state"], record["route"]) == ("queued", "cpu.arm64")
    assert record["reason"] == "No live host listens to cpu.arm64 or cpu.amd64; it starts when one joins."
    assert waiting_on(redis_url, "cpu.arm64") == [operation["id"]]
    [waits] = OperationStore(redis).list_pending()
    assert (waits.id, waits.routes) == (operation["id"], ("cpu.arm64", "cpu.amd64"))


def test_a_start_goes_to_the_first_class_of_hosts_with_a_consumer(node, worker):
    [operation] = node.start()

    assert operation["route"] == "cpu.amd64"
    assert operation["reason"] is None


def test_a_host_that_left_is_not_chosen(node, worker):
    worker.leave()

    [operation] = node.start()

    assert "No live host" in operation["reason"]


def test_a_second_start_goes_to_the_host_that_runs_the_service(node, redis):
    ScriptedWorker(redis, "alpha")
    beta = ScriptedWorker(redis, "beta")
    beta.is_ready(node.start()[0])

    [again] = node.start()

    assert again["route"] == "host.beta"


def test_a_start_prefers_the_host_that_runs_the_service_to_one_that_ran_it(node, redis):
    alpha, beta = ScriptedWorker(redis, "alpha"), ScriptedWorker(redis, "beta")
    alpha.is_ready(node.start(hosts=["alpha"])[0])
    [stop] = node.post(f"/v1/services/{SERVICE}:stop").json()["operations"]
    alpha.has_stopped(stop)
    beta.is_ready(node.start(hosts=["beta"])[0])
    node.post("/v1/services", {"id": SERVICE})

    [again] = node.start()

    assert again["route"] == "host.beta"


def test_named_hosts_get_an_operation_each_and_are_desired_to_run_it(node, redis, services):
    for name in ("alpha", "beta"):
        ScriptedWorker(redis, name)

    operations = node.start(hosts=["beta", "alpha", "beta"])

    assert [each["route"] for each in operations] == ["host.beta", "host.alpha"]
    wanted = services.instances_of(ServiceId(SERVICE))
    assert [(each.id.host, each.desired, each.state) for each in wanted] == [
        ("alpha", Desired.RUNNING, InstanceState.STARTING),
        ("beta", Desired.RUNNING, InstanceState.STARTING),
    ]


def test_one_unknown_host_among_the_named_ones_keeps_everything_from_being_enqueued(node, worker):
    answer = node.post(f"/v1/services/{SERVICE}:start", {"hosts": ["alpha", "nowhere"]})

    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_host")
    assert node.get("/v1/operations").json()["items"] == []
    assert node.get("/v1/services").json()["items"] == []


def test_a_named_host_that_is_offline_is_waited_for(node, worker):
    worker.leave()

    [operation] = node.start(hosts=["alpha"])

    assert operation["reason"] == "alpha is not live; it waits until alpha is back."


def test_replicas_are_placed_on_distinct_suitable_live_hosts(node, redis):
    for name, routes in {"alpha": ("gb10.arm64",), "beta": ("cpu.amd64",), "gamma": ("cpu.arm64",)}.items():
        ScriptedWorker(redis, name, routes=routes)
    ScriptedWorker(redis, "delta").leave()

    operations = node.start(replicas=2)

    assert [each["route"] for each in operations] == ["host.beta", "host.gamma"]


def test_many_starts_of_one_service_are_compared_with_each_other_once(node, redis):
    hosts = BATCH_SIZE + 10
    for number in range(hosts):
        ScriptedWorker(redis, f"host-{number:02}")
    redis.config_resetstat()

    assert len(node.start(replicas=hosts)) == hosts

    reads = redis.info("commandstats").get("cmdstat_hmget", {"calls": 0})
    assert reads["calls"] < 10


def test_an_ended_start_is_no_longer_looked_for_by_others(node, worker, redis):
    (start,) = node.start()
    assert redis.hgetall(keys.starts(SERVICE)) == {start["id"]: start["route"]}

    node.post(f"/v1/operations/{start['id']}:cancel")

    assert redis.hgetall(keys.starts(SERVICE)) == {}


def test_replicas_go_first_to_hosts_that_run_the_service(node, redis):
    for name in ("alpha", "beta", "gamma"):
        worker = ScriptedWorker(redis, name)
    worker.is_ready(node.start(hosts=["gamma"])[0])

    operations = node.start(replicas=2)

    assert [each["route"] for each in operations] == ["host.gamma", "host.alpha"]


def test_too_few_hosts_for_the_replicas_are_refused_with_the_reasons_of_each(node, redis):
    ScriptedWorker(redis, "alpha", routes=("gb10.arm64",))
    ScriptedWorker(redis, "beta").leave()
    ScriptedWorker(redis, "gamma")

    answer = node.post(f"/v1/services/{SERVICE}:start", {"replicas": 2})

    assert answer.status_code == 422
    assert "alpha: needs route cpu.arm64 or cpu.amd64" in answer.json()["detail"]
    assert "beta: not live" in answer.json()["detail"]


@pytest.mark.parametrize("where", [{}, {"hosts": ["alpha"]}, {"replicas": 1}])
def test_a_port_outside_the_range_is_refused_where_the_host_is_known(node, worker, where):
    answer = node.post(f"/v1/services/{SERVICE}:start", {"port": 8080, **where})

    assert (answer.status_code, answer.json()["code"]) == (422, "port_out_of_range")
    assert "20000-20999" in answer.json()["detail"]


def test_a_start_without_options_uses_the_stored_service(node, worker):
    node.post("/v1/services", {"id": SERVICE, "port": 20007, "hosts": ["alpha"], "arguments": {"flood": 3}})

    [operation] = node.start()

    command = worker.claim_start(operation["id"]).command
    assert operation["route"] == "host.alpha"
    assert command.port == 20007
    assert command.engine.arguments["flood"] == 3


def test_options_of_a_start_change_the_stored_service_once_it_is_ready(node, worker):
    node.post("/v1/services", {"id": SERVICE, "port": 20007, "arguments": {"flood": 3}})

    worker.is_ready(node.start(port=20008)[0])

    service = node.get(f"/v1/services/{SERVICE}").json()
    assert (service["port"], service["arguments"]) == (20008, {"flood": 3})


def test_creating_a_service_again_replaces_it(node):
    node.post("/v1/services", {"id": SERVICE, "port": 20007})

    answer = node.post("/v1/services", {"id": SERVICE})

    assert (answer.status_code, answer.json()["port"]) == (201, None)


def test_a_restart_replaces_running_instances_on_their_hosts(node, worker):
    worker.is_ready(node.start()[0])

    answer = node.post(f"/v1/services/{SERVICE}:restart")

    [operation] = answer.json()["operations"]
    assert operation["route"] == "host.alpha"
    assert worker.claim_start(operation["id"]).command.replace is True


def test_a_restart_leaves_alone_an_instance_that_is_to_stop(node, redis):
    """As on an offline host, which executes the stop when it is back."""
    for name in ("alpha", "beta"):
        ScriptedWorker(redis, name).is_ready(node.start(hosts=[name])[0])
    node.post(f"/v1/services/{SERVICE}:stop", {"hosts": ["alpha"]})

    answer = node.post(f"/v1/services/{SERVICE}:restart")

    assert [operation["route"] for operation in answer.json()["operations"]] == ["host.beta"]


# Stopping ---------------------------------------------------------------------------------------------------------


def test_a_stop_is_sent_to_the_stop_queue_of_each_host_that_runs_the_service(node, redis, redis_url, services):
    for name in ("alpha", "beta"):
        worker = ScriptedWorker(redis, name)
        worker.is_ready(node.start(hosts=[name])[0])

    answer = node.post(f"/v1/services/{SERVICE}:stop", {"grace": "3s"})

    assert answer.status_code == 202
    stops = answer.json()["operations"]
    assert [(each["kind"], each["route"]) for each in stops] == [("stop", "host.alpha"), ("stop", "host.beta")]
    assert waiting_on(redis_url, "host.alpha.stop") == [stops[0]["id"]]
    assert {each.desired for each in services.instances_of(ServiceId(SERVICE))} == {Desired.STOPPED}
    command = worker.claim_start(stops[1]["id"]).command
    assert isinstance(command, StopService)
    assert command.grace.total_seconds() == 3


def test_a_stop_cancels_an_unclaimed_start(node):
    [start] = node.start()

    answer = node.post(f"/v1/services/{SERVICE}:stop")

    assert answer.json()["operations"] == []
    assert node.operation(start["id"])["state"] == "cancelled"


def test_a_start_cancelled_by_a_stop_no_longer_changes_the_instance(node, worker, services):
    [start] = node.start(hosts=["alpha"])

    node.post(f"/v1/services/{SERVICE}:stop")

    assert node.operation(start["id"])["state"] == "cancelled"
    [instance] = services.instances_of(ServiceId(SERVICE))
    assert instance.desired is Desired.STOPPED
    assert instance.state is not InstanceState.STOPPED  # only its worker can record that


def test_a_stop_reaches_a_start_that_was_just_claimed(node, worker):
    [start] = node.start()
    worker.claim_start(start["id"])

    answer = node.post(f"/v1/services/{SERVICE}:stop")

    assert [each["route"] for each in answer.json()["operations"]] == ["host.alpha"]


def test_a_stop_of_a_service_without_instances_has_nothing_to_do(node):
    node.post("/v1/services", {"id": SERVICE})

    answer = node.post(f"/v1/services/{SERVICE}:stop")

    assert (answer.status_code, answer.json()) == (202, {"operations": []})


def test_a_stop_on_one_host_leaves_the_others_running(node, redis, services):
    for name in ("alpha", "beta"):
        ScriptedWorker(redis, name).is_ready(node.start(hosts=[name])[0])

    answer = node.post(f"/v1/services/{SERVICE}:stop", {"hosts": ["beta"]})

    assert [each["route"] for each in answer.json()["operations"]] == ["host.beta"]
    alpha = services.instance(InstanceId(f"{SERVICE}@alpha"))
    assert alpha is not None
    assert alpha.desired is Desired.RUNNING


# Cancelling -------------------------------------------------------------------------------------------------------


def test_cancelling_an_unclaimed_operation_ends_it_at_once(node, worker, services):
    [start] = node.start(hosts=["alpha"])

    answer = node.post(f"/v1/operations/{start['id']}:cancel")

    assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    assert answer.json()["failure"]["code"] == "cancelled"
    left = services.instance(InstanceId(f"{SERVICE}@alpha"))
    assert left is not None
    assert (left.desired, left.state) == (Desired.STOPPED, InstanceState.STOPPED)


def test_cancelling_a_second_start_keeps_the_running_instance_desired(node, worker, services):
    worker.is_ready(node.start()[0])
    [second] = node.start()

    node.post(f"/v1/operations/{second['id']}:cancel")

    left = services.instance(InstanceId(f"{SERVICE}@alpha"))
    assert left is not None
    assert (left.desired, left.state) == (Desired.RUNNING, InstanceState.READY)


def test_cancelling_a_claimed_operation_is_left_to_its_host(node, worker):
    [start] = node.start()
    worker.claim_start(start["id"])

    answer = node.post(f"/v1/operations/{start['id']}:cancel")

    assert (answer.status_code, answer.json()["state"]) == (202, "running")


def test_cancelling_an_ended_operation_changes_nothing(node, worker):
    [start] = node.start()
    worker.is_ready(start)

    answer = node.post(f"/v1/operations/{start['id']}:cancel")

    assert (answer.status_code, answer.json()["state"]) == (202, "succeeded")


# Images and removal -----------------------------------------------------------------------------------------------


def test_an_image_of_an_engine_is_pulled_with_its_alternatives(node, redis):
    spark = ScriptedWorker(redis, "spark", routes=("gb10.arm64",))

    answer = node.post("/v1/images:pull", {"engine": "vllm-0.14.0-cu131-gb10"})

    [pull] = answer.json()["operations"]
    assert (pull["kind"], pull["route"], pull["image"]) == ("pull", "host.spark", "zhiwen-vllm:0128")
    assert len(spark.claim_start(pull["id"]).command.images) == 2


def test_an_image_is_pulled_on_the_only_host_and_with_several_hosts_one_must_be_named(node, redis):
    ScriptedWorker(redis, "alpha")
    first = node.post("/v1/images:pull", {"image": "repo/name:1"})
    ScriptedWorker(redis, "beta")

    second = node.post("/v1/images:pull", {"image": "repo/name:1"})

    assert first.json()["operations"][0]["route"] == "host.alpha"
    assert second.status_code == 422
    assert "2 live hosts" in second.json()["detail"]


def test_a_running_service_cannot_be_removed_and_a_stopped_one_can(node, worker, services):
    [start] = node.start()
    queued = node.client.delete(f"/v1/services/{SERVICE}")
    worker.is_ready(start)
    running = node.client.delete(f"/v1/services/{SERVICE}")
    instance = services.instance(InstanceId(f"{SERVICE}@alpha"))
    services.update_status(instance.model_copy(update={"state": InstanceState.STOPPED}))

    down = node.client.delete(f"/v1/services/{SERVICE}")

    assert (queued.status_code, queued.json()["code"]) == (409, "operation_in_progress")
    assert (running.status_code, running.json()["code"]) == (409, "service_running")
    assert down.status_code == 204
    assert node.get(f"/v1/services/{SERVICE}").json()["code"] == "unknown_service"


def test_an_instance_on_a_host_without_heartbeats_is_shown_as_unknown(node, worker):
    worker.is_ready(node.start()[0])
    worker.leave()

    service = node.get(f"/v1/services/{SERVICE}").json()

    assert [each["state"] for each in service["instances"]] == ["unknown"]


# When Redis does not answer ----------------------------------------------------------------------------------------


def test_an_operation_whose_submission_got_no_reply_is_failed(redis, worker):
    operations = OperationStore(redis)
    unanswered, cancellations = NeverAnswered(redis), Cancellations(operations, ServiceStore(redis))
    cancellations.loop.start()
    submit = Submitter(
        unanswered,
        cancellations=cancellations,
        backlog=BacklogLimit(redis, most=1),
        signing_key=SigningKey(SIGNING_KEY),
    )

    with pytest.raises(BrokerUnavailable):
        submit.submit(PullImage(images=("repo/name:1",)), [Target(Route("host.alpha"))], Mandate("test"))

    assert eventually(lambda: operations.list_active() == [])
    [failed] = operations.page(limit=9).items
    assert failed.phase is Phase.FAILED
    assert failed.failure is not None
    assert failed.failure.code == "broker_unavailable"
    cancellations.loop.stop(within=timedelta(seconds=30))


def test_a_cancel_after_an_outage_is_retried_until_redis_answers(redis, worker, node):
    [start] = node.start()
    operations = CutOff(redis, times=3)
    cancellations = Cancellations(operations, ServiceStore(redis), retry_delay=timedelta(milliseconds=1))
    cancellations.loop.start()

    failure = BrokerUnavailable(detail="cut off").failure
    cancellations.cancel_when_redis_answers([OperationId.new(), OperationId(start["id"])], failure)

    assert eventually(lambda: node.operation(start["id"])["state"] == "failed")
    assert operations.left == 0
    cancellations.loop.stop(within=timedelta(seconds=30))


class CutOff(OperationStore):
    """Redis is unavailable for so many cancels."""

    def __init__(self, redis: TextRedis, *, times: int) -> None:
        super().__init__(redis)
        self.left = times

    def request_cancel(self, id: OperationId, *, superseded_by: OperationId | None = None) -> bool:
        if self.left:
            self.left -= 1
            raise BrokerUnavailable(detail="cut off")
        return super().request_cancel(id, superseded_by=superseded_by)


class NeverAnswered(OperationStore):
    """A lost reply: Redis executes the script, and the connection breaks before the reply."""

    def enqueue(self, queued: Iterable[QueuedOperation]) -> list[Operation]:
        super().enqueue(queued)
        raise BrokerUnavailable(detail="cut off")
