"""Lost, duplicate and malformed messages: the record decides, so operations are redelivered and executed once."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta

import pytest
from lab.parts import eventually

from aima_core.domain.ids import HostName, Route
from aima_core.domain.operations import State
from aima_core.queue.celery_app import celery_app
from aima_core.queue.notifier import encode_message
from aima_core.redis import keys
from aima_core.redis.connection import command_link
from aima_core.store.hosts import HostStore
from aima_worker.execution.redelivery import REDELIVERY_INTERVAL

pytestmark = pytest.mark.redis

QUEUE = keys.queue("host.alpha")
STARTS_WITHIN = timedelta(seconds=60)
REDELIVERED_WITHIN = timedelta(seconds=15)
"""Beside the time that a busy machine takes."""


def again(operation) -> str:
    """Its message, with a new delivery tag."""
    return encode_message(operation, str(Route.to_host("alpha")))


def test_a_start_whose_message_was_lost_is_redelivered_and_executed(a_redis, hosts_of, asked_of):
    redis = a_redis()
    fleet, asked = hosts_of(redis.url), asked_of(redis.url)
    worker = fleet.processes[0]
    worker.freeze()
    id = asked.start("svc-tiny-lost")
    with redis.client() as client:  # it is delivered, and never read; or it waits: the worker was between two polls
        client.delete(QUEUE)
        assert client.hlen(keys.queue("unacked")) == 0

    worker.kill()
    worker.start()

    assert asked.have_ended([id], within=STARTS_WITHIN), fleet.processes[0].log()

    record = asked.store.get(id)
    assert (record.state, record.attempt) == (State.SUCCEEDED, 1)
    assert list(fleet.made().values()) == [1]


def test_a_start_whose_message_was_lost_is_redelivered_while_its_worker_lives(a_redis, hosts_of, asked_of):
    redis = a_redis()
    fleet = hosts_of(redis.url)
    fleet.processes[0].freeze()
    redis.reset_connections("normal")  # no worker consumes at that moment
    asked = asked_of(redis.url)
    id = asked.start("svc-tiny-lost")

    with redis.client() as client:
        assert client.delete(QUEUE) == 1
    fleet.processes[0].thaw()

    assert eventually(lambda: asked.store.get(id).attempt == 1, within=STARTS_WITHIN), fleet.processes[0].log()
    assert asked.have_ended([id], within=STARTS_WITHIN)
    assert list(fleet.made().values()) == [1]


def test_a_lost_message_is_redelivered_in_the_pass_after_its_delay():
    assert keys.LOOK_AFTER + REDELIVERY_INTERVAL < REDELIVERED_WITHIN


def test_a_message_delivered_again_before_during_and_after_its_start_has_no_effect(a_redis, hosts_of, asked_of):
    redis = a_redis()
    fleet, asked = hosts_of(redis.url), asked_of(redis.url)
    fleet.processes[0].freeze()
    id = asked.start("svc-tiny-twice")
    same = again(asked.store.get(id))
    with redis.client() as client:
        client.lpush(QUEUE, same, same)
        fleet.processes[0].thaw()
        assert eventually(lambda: asked.has_begun(id))
        client.lpush(QUEUE, again(asked.store.get(id)))
        assert asked.have_ended([id], within=STARTS_WITHIN)
        events = len(asked.store.events(id))
        client.lpush(QUEUE, again(asked.store.get(id)))
        skipped = eventually(lambda: fleet.processes[0].log().count("skipped") >= 3, within=STARTS_WITHIN)

        assert skipped, fleet.processes[0].log()
        assert eventually(lambda: client.hlen(keys.queue("unacked")) == client.llen(QUEUE) == 0)
    record = asked.store.get(id)
    assert (record.state, record.attempt) == (State.SUCCEEDED, 1)
    assert len(asked.store.events(id)) == events
    assert list(fleet.made().values()) == [1]


def a_message(headers: object, body: str = "e30=", kind: str = "json") -> str:
    """A message that is well-formed for Kombu and malformed for Celery."""
    delivery = {"delivery_tag": str(uuid.uuid4()), "delivery_info": {"exchange": "", "routing_key": "host.alpha"}}
    said = {"content-encoding": "utf-8", "content-type": f"application/{kind}", "headers": headers, "body": body}
    return json.dumps({**said, "properties": {**delivery, "body_encoding": "base64"}})


OURS = {"task": "aima.start", "id": "x", "lang": "py"}
SENSELESS = {
    "no JSON": "no JSON",
    "no text": b"\xff\xfe",
    "nothing": "{}",
    "a list": "[]",
    "a text": '"a text"',
    "no message": "null",
    "no task": a_message({}),
    "no headers": a_message(None),
    "a task that there is not": a_message({**OURS, "task": "os.system"}),
    "no arguments": a_message(OURS, "W10="),
    "a number for a body": a_message(OURS, "MQ=="),
    "a body that is no JSON": a_message(OURS, "e30"),
    "a body of no text": a_message(OURS, "bm8="),
    "a pickle": a_message(OURS, "gASVAA==", "x-python-serialize"),
    "arguments that it does not take": a_message(OURS, "W1tdLCB7fSwge31d"),
    "no id of an operation": a_message(OURS, "W1sieCJdLCB7fSwge31d"),
}


def dropped_by_alpha(redis) -> int:
    return HostStore(command_link(redis.url)).get(HostName("alpha")).messages_dropped


def test_a_malformed_message_is_dropped_and_the_next_one_is_executed(a_redis, hosts_of, asked_of):
    redis = a_redis()
    fleet, asked = hosts_of(redis.url), asked_of(redis.url)

    with redis.client() as client:
        for number, (what, message) in enumerate(SENSELESS.items()):
            client.lpush(QUEUE, message)
            client.publish(keys.queue("/0.celery.pidbox"), message)
            asked_next = asked.start(f"svc-tiny-next{number}")
            assert asked.have_ended([asked_next], within=STARTS_WITHIN), what + fleet.processes[0].log()

        assert eventually(lambda: client.hlen(keys.queue("unacked")) == client.llen(QUEUE) == 0)
    assert len(fleet.made()) == len(SENSELESS)
    assert fleet.processes[0].up


def test_malformed_messages_are_counted_once_each_and_across_worker_restarts(a_redis, hosts_of, asked_of):
    redis = a_redis()
    worker = hosts_of(redis.url).processes[0]
    asked = asked_of(redis.url)

    with redis.client() as client:
        client.lpush(QUEUE, *SENSELESS.values())
        counted = eventually(
            lambda: dropped_by_alpha(redis) >= len(SENSELESS) and not client.hlen(keys.queue("unacked")),
            within=STARTS_WITHIN,
        )
    worker.kill()
    worker.start()

    assert counted, f"{dropped_by_alpha(redis)} of {len(SENSELESS)}\n{worker.log()}"
    assert asked.have_ended([asked.start("svc-tiny-next")], within=STARTS_WITHIN)
    assert dropped_by_alpha(redis) == len(SENSELESS)


def test_another_application_on_the_same_redis_receives_none_of_our_messages(a_redis, hosts_of, asked_of):
    redis = a_redis()
    app = celery_app(redis.url, answer_within=timedelta(seconds=5))
    options = {name: value for name, value in app.conf.broker_transport_options.items() if name != "global_keyprefix"}
    app.conf.broker_transport_options = {**options, "visibility_timeout": 0}
    fleet, asked = hosts_of(redis.url), asked_of(redis.url)
    id = asked.start("svc-tiny-ours")
    assert eventually(lambda: asked.has_begun(id))

    with app.connection_for_write() as connection, connection.channel() as theirs:
        theirs.qos.restore_visible(num=100)
        taken = theirs.basic_get("host.alpha")

    assert taken is None
    assert asked.have_ended([id], within=STARTS_WITHIN)
    assert asked.store.get(id).attempt == 1
    assert "skipped" not in fleet.processes[0].log()
