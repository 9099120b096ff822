"""Enqueueing: the Celery message of an operation, and the records written atomically with it."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Thread
from typing import Any

import pytest
from celery.exceptions import Reject
from celery.worker import state
from lab.celery_client import a_celery
from lab.commands import a_stop_of, enqueue_signed
from lab.parts import eventually

from aima_core.domain.ids import HostName, InstanceId, OperationId, Route
from aima_core.domain.operations import Kind, Operation, Phase, State
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.queue.notifier import Notifier, encode_message, task_name
from aima_core.redis import keys
from aima_core.store.operation_records import QueuedOperation
from aima_core.store.operations import OperationStore, now
from aima_core.store.services import ServiceStore
from aima_core.trust.orders import SignedOrder

pytestmark = pytest.mark.redis
QUEUE = "cpu.amd64"
RUNS_WITHIN = timedelta(seconds=60)
"""The start of a Celery worker included, and its end."""
UNSIGNED = SignedOrder("{}", "")
EACH_HAS_ITS_OWN = {"delivery_tag", "reply_to", "origin"}


@pytest.fixture
def store(redis):
    return OperationStore(redis)


@pytest.fixture
def services(redis):
    return ServiceStore(redis)


def an_operation(**changes: object) -> Operation:
    facts = {
        "id": OperationId.new(),
        "kind": Kind.START,
        "state": State.QUEUED,
        "phase": Phase.QUEUED,
        "fence": 1,
        "seq": 1,
        "route": QUEUE,
        "service": "svc-tiny-dial",
        "engine": "tiny-test",
        "created_at": now(),
    }
    return Operation.model_validate({**facts, **changes})


def an_order(**changes: Any) -> QueuedOperation:
    return QueuedOperation(an_operation(), "{}", UNSIGNED, **changes)


def wanted_by(operation: Operation, host: str = "alpha") -> Instance:
    return Instance(
        id=InstanceId(f"{operation.service}@{host}"),
        desired=Desired.RUNNING,
        fence=0,
        state=InstanceState.STARTING,
        operation=operation.id,
        since=now(),
    )


# The message ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["tiny-test", None])
def test_an_operation_message_equals_the_one_celery_would_send(redis, redis_url, engine):
    operation = an_operation(engine=engine)
    reported = {"what": "svc-tiny-dial", "engine": engine, "where": QUEUE}
    with a_celery(redis_url) as celery:
        celery.send_task(
            task_name(operation.kind),
            args=[str(operation.id)],
            kwargs={name: value for name, value in reported.items() if value},
            task_id=operation.id,
            queue=QUEUE,
        )
    theirs = redis.blpop(keys.queue(QUEUE), timeout=1)[1]

    ours = encode_message(operation, QUEUE)

    assert fields_of(ours) == fields_of(theirs)


def test_each_message_has_its_own_delivery_id():
    operation = an_operation()

    first, second = (json.loads(encode_message(operation, QUEUE))["properties"]["delivery_tag"] for _ in range(2))

    assert first != second


def test_a_celery_worker_runs_the_task_under_the_operation_id(redis, redis_url):
    operation = an_operation()
    with a_worker_that_notes(redis_url) as ran:
        Notifier(redis).notify(operation)

        assert eventually(lambda: ran == [(operation.id, (operation.id,), "aima.start")], within=RUNS_WITHIN), ran


def test_a_message_that_a_worker_rejects_is_redelivered(redis, redis_url):
    operation = an_operation()
    with a_worker_that_notes(redis_url, rejects=1) as ran:
        Notifier(redis).notify(operation)

        assert eventually(lambda: [id for id, *_ in ran] == [operation.id] * 2, within=RUNS_WITHIN), ran


def test_a_stop_is_sent_to_the_stop_queue_and_other_operations_to_the_queue_of_their_route(store, redis):
    stop = enqueue_signed(store, a_stop_of())

    Notifier(redis).notify(stop, on="host.beta")

    assert [waiting(redis, queue) for queue in ("host.alpha", "host.alpha.stop", "host.beta")] == [0, 1, 1]


# Records of the same transaction ----------------------------------------------------------------------------------


def test_an_operation_is_recorded_with_its_event_and_its_message(store, redis):
    order = an_order()

    [put] = store.enqueue([order])

    assert store.get(put.id) == put == order.operation
    assert [(event.seq, event.phase) for event in store.events(put.id)] == [(1, Phase.QUEUED)]
    assert [event.operation for _, event in store.all_events("0-0")] == [put.id]
    assert json.loads(redis.blpop(keys.queue(QUEUE), timeout=1)[1])["headers"]["id"] == put.id
    assert store.active() == [put.id]
    assert store.list_pending() == []


def test_a_subscriber_receives_the_event_of_a_new_operation_at_once(store, redis):
    with redis.pubsub() as listening:
        listening.subscribe(keys.EVENTS)
        [put] = store.enqueue([an_order()])

        received = [message["data"] for _ in range(2) if (message := listening.get_message(timeout=2))]

    id, seq, place, text = received[-1].split(" ", 3)
    assert (id, seq) == (put.id, "1")
    assert place == store.last_event_id()
    assert json.loads(text)["phase"] == "queued"


def test_the_events_of_a_batch_are_published_as_one_message_with_a_line_each(store, redis):
    with redis.pubsub(ignore_subscribe_messages=True) as listening:
        listening.subscribe(keys.EVENTS)
        listening.get_message(timeout=2)
        put = store.enqueue([an_order(), an_order(), an_order()])

        published = listening.get_message(timeout=2)["data"].split("\n")

        assert [line.split(" ")[0] for line in published] == [each.id for each in put]
        assert listening.get_message(timeout=0.1) is None


def test_an_operation_recorded_twice_exists_once(store, redis):
    order = an_order()
    first = store.enqueue([order])

    again = store.enqueue([order])

    assert again == first
    assert waiting(redis, QUEUE) == 1
    assert len(store.events(order.operation.id)) == 1


def test_scripts_are_loaded_again_after_redis_has_lost_them(store, redis):
    store.enqueue([an_order()])
    redis.script_flush()

    store.enqueue([an_order(), an_order()])

    assert waiting(redis, QUEUE) == 3


def test_a_new_operation_is_not_redelivered_before_its_delay(store, redis):
    [put] = store.enqueue([an_order()])
    seconds, microseconds = redis.time()

    [(id, due)] = redis.zrange(keys.ACTIVE, 0, -1, withscores=True)

    assert id == put.id
    assert due / 1000 - (seconds + microseconds / 1e6) == pytest.approx(keys.LOOK_AFTER.total_seconds(), abs=1)


def test_a_joining_host_finds_the_operations_queued_for_it(store):
    [waits, _] = store.enqueue([an_order(waits=True), an_order()])

    assert store.list_pending() == [waits]


def test_its_instance_is_desired_running_under_its_fence(store, services):
    operation = an_operation(route=Route("host.alpha"))
    store.enqueue([an_order()])

    [put] = store.enqueue([QueuedOperation(operation, "{}", UNSIGNED)])

    wanted = services.instances_on(HostName("alpha"))
    assert [(each.desired, each.fence, each.operation) for each in wanted] == [(Desired.RUNNING, put.fence, put.id)]
    assert services.instances_of(operation.service) == wanted


def test_a_start_leaves_the_reported_state_of_an_instance_unchanged(store, services):
    operation = an_operation(route=Route("host.alpha"))
    services.set_desired(wanted_by(operation).model_copy(update={"state": InstanceState.READY}))

    store.enqueue([QueuedOperation(operation, "{}", UNSIGNED)])

    assert [each.state for each in services.instances_on(HostName("alpha"))] == [InstanceState.READY]


def test_an_operation_is_superseded_by_one_of_its_own_batch_although_their_instance_is_new(store, services):
    route = Route("host.alpha")
    later, late = an_operation(route=route, fence=2), an_operation(route=route, fence=1)

    put = store.enqueue([QueuedOperation(each, "{}", UNSIGNED) for each in (later, late)])

    assert [each.state for each in put] == [State.QUEUED, State.CANCELLED]
    assert [(each.fence, each.operation) for each in services.instances_on(HostName("alpha"))] == [(2, later.id)]


def test_in_a_batch_with_stored_operations_only_the_new_ones_are_stored(store, redis):
    known, new = an_order(), an_order()
    store.enqueue([known])

    store.enqueue([known, new])

    assert waiting(redis, QUEUE) == 2
    assert [len(store.events(each.operation.id)) for each in (known, new)] == [1, 1]


def test_each_message_of_a_batch_has_the_values_of_its_own_operation(store, redis):
    put = store.enqueue([an_order(), an_order()])

    messages = [json.loads(text) for text in reversed(redis.lrange(keys.queue(QUEUE), 0, -1))]

    assert [each["headers"]["id"] for each in messages] == [each.id for each in put]
    for message, operation in zip(messages, put, strict=True):
        alone = json.loads(encode_message(operation, QUEUE))
        assert message.pop("properties") | {"delivery_tag": ""} == alone.pop("properties") | {"delivery_tag": ""}
        assert message == alone


def waiting(redis, queue: str) -> int:
    return int(redis.llen(keys.queue(queue)))


def fields_of(message: str) -> dict[str, Any]:
    """The fields that two messages of the same content share."""
    fields = json.loads(message)
    fields["body"] = json.loads(b64decode(fields["body"]))
    for part in ("headers", "properties"):
        fields[part] = {name: value for name, value in fields[part].items() if name not in EACH_HAS_ITS_OWN}
    return fields


@contextmanager
def a_worker_that_notes(redis_url: str, *, rejects: int = 0) -> Iterator[list[tuple[Any, ...]]]:
    """A real Celery worker with a thread pool, and the tasks delivered to it."""
    ran: list[tuple[Any, ...]] = []

    def note(task: Any, *args: str, **_: str) -> None:
        ran.append((task.request.id, args, task.name))
        if len(ran) <= rejects:
            raise Reject("not now", requeue=True)

    with a_celery(redis_url, answer_within=timedelta(seconds=10)) as app:
        app.task(name="aima.start", bind=True, shared=False)(note)
        worker = app.Worker(
            pool="threads", concurrency=1, queues=[QUEUE], without_gossip=True, without_mingle=True, quiet=True
        )
        thread = Thread(target=worker.start)
        thread.start()
        try:
            yield ran
        finally:
            state.should_stop = 0
            thread.join(timeout=RUNS_WITHIN.total_seconds())
            state.should_stop = None
