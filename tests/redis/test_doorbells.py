"""Messages that are lost, doubled, late or senseless: a doorbell decides nothing, and nothing is lost or doubled by it."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta

import pytest
from lab.parts import eventually

from aima_core import keys
from aima_core.celery_app import celery_app
from aima_core.ids import Route
from aima_core.operations import State
from aima_core.queue import envelope

pytestmark = pytest.mark.redis

QUEUE = keys.queue("host.alpha")
STARTS_WITHIN = timedelta(seconds=20)
"""The goal for what is queued while somebody is idle: looked after at 10 s, at the latest at the sweep after that."""
NOTHING_COMES = timedelta(seconds=1)


def again(operation) -> str:
    """Its message, as a delivery of its own."""
    return envelope(operation, str(Route.to_host("alpha")))


def test_a_start_whose_message_was_lost_is_carried_out_all_the_same(a_redis, hosts_of, asked_of):
    redis = a_redis()
    fleet, asked = hosts_of(redis.url), asked_of(redis.url)
    fleet.processes[0].freeze()
    id = asked.start("svc-tiny-lost")
    with redis.client() as client:
        assert client.delete(QUEUE) == 1
    fleet.processes[0].thaw()

    assert asked.have_ended([id], within=STARTS_WITHIN), fleet.processes[0].log()

    record = asked.store.get(id)
    assert (record.state, record.attempt) == (State.SUCCEEDED, 1)
    assert list(fleet.made().values()) == [1]


def test_a_message_that_comes_again_before_during_and_after_its_start_doubles_nothing(a_redis, hosts_of, asked_of):
    redis = a_redis()
    fleet, asked = hosts_of(redis.url), asked_of(redis.url)
    fleet.processes[0].freeze()
    id = asked.start("svc-tiny-twice")
    with redis.client() as client:
        client.lpush(QUEUE, again(asked.store.get(id)), client.lindex(QUEUE, 0))
        fleet.processes[0].thaw()
        assert eventually(lambda: asked.is_running(id))
        client.lpush(QUEUE, again(asked.store.get(id)))
        assert asked.have_ended([id], within=STARTS_WITHIN)
        events = len(asked.store.events(id))
        client.lpush(QUEUE, again(asked.store.get(id)))
        skipped = eventually(lambda: fleet.processes[0].log().count(f"skipped operation={id}") >= 3)

        assert skipped, fleet.processes[0].log()
        assert eventually(lambda: client.hlen(keys.queue("unacked")) == client.llen(QUEUE) == 0)
    record = asked.store.get(id)
    assert (record.state, record.attempt) == (State.SUCCEEDED, 1)
    assert len(asked.store.events(id)) == events
    assert list(fleet.made().values()) == [1]


@pytest.mark.parametrize(
    "senseless",
    [
        pytest.param({"body": "e30=", "headers": {}, "content-type": "application/json"}, id="no task"),
        pytest.param({"body": "e30=", "headers": {"task": "os.system", "id": "x"}}, id="a task that there is not"),
        pytest.param({"body": "W10=", "headers": {"task": "aima.start", "id": "x"}}, id="no id"),
        pytest.param({"body": "gASVAA==", "headers": {"task": "aima.start", "id": "x"}, "type": "pickle"}, id="pickle"),
    ],
)
def test_a_message_that_makes_no_sense_is_dropped_and_the_next_is_heard(a_redis, hosts_of, asked_of, senseless):
    redis = a_redis()
    fleet, asked = hosts_of(redis.url), asked_of(redis.url)
    delivery = {"delivery_tag": str(uuid.uuid4()), "delivery_info": {"exchange": "", "routing_key": "host.alpha"}}
    told = {
        "content-encoding": "utf-8",
        "content-type": f"application/{senseless.get('type', 'json')}",
        **senseless,
        "properties": {**delivery, "body_encoding": "base64"},
    }

    with redis.client() as client:
        client.lpush(QUEUE, json.dumps(told))
        assert asked.have_ended([asked.start("svc-tiny-next")], within=STARTS_WITHIN), fleet.processes[0].log()

        assert eventually(lambda: client.hlen(keys.queue("unacked")) == client.llen(QUEUE) == 0)
    assert fleet.processes[0].up
    assert list(fleet.made().values()) == [1]


def test_another_application_on_the_same_redis_takes_no_message_of_ours(a_redis, hosts_of, asked_of):
    redis = a_redis()
    app = celery_app(redis.url, answer_within=5)
    options = {name: value for name, value in app.conf.broker_transport_options.items() if name != "global_keyprefix"}
    app.conf.broker_transport_options = {**options, "visibility_timeout": 0}
    fleet, asked = hosts_of(redis.url), asked_of(redis.url)
    id = asked.start("svc-tiny-ours")
    assert eventually(lambda: asked.is_running(id))

    with app.connection_for_write() as connection, connection.channel() as theirs:
        theirs.qos.restore_visible(num=100)
        taken = theirs.basic_get("host.alpha")

    assert taken is None
    assert asked.have_ended([id], within=STARTS_WITHIN)
    assert asked.store.get(id).attempt == 1
    assert f"skipped operation={id}" not in fleet.processes[0].log()
