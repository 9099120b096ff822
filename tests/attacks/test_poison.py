"""A writer in Redis sends messages that are oversized, compressed, nested or of foreign shape: all are dropped."""

from __future__ import annotations

import json
import re
import uuid
import zlib
from base64 import b64encode
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from api.conftest import node  # noqa: F401 a fixture
from api.node import ScriptedWorker
from core.redis.conftest import a_redis, asked_of, hosts_of, redis_server_program  # noqa: F401 fixtures
from lab.parts import eventually

from aima_core.domain.ids import HostName, OperationId
from aima_core.domain.operations import Kind, Operation, Phase, State
from aima_core.errors import Cancelled
from aima_core.logs.protocol import LogBatch, LogRequest
from aima_core.queue.intake import check_control, check_task
from aima_core.queue.notifier import encode_message
from aima_core.queue.transport import DroppedMessages
from aima_core.redis import keys
from aima_core.redis.connection import command_link
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore, now
from aima_worker.logs.channel import LogChannel

pytestmark = pytest.mark.redis

QUEUE = keys.queue("host.alpha")
CONTROL = keys.queue("/0.celery.pidbox")
ENDS_WITHIN = timedelta(seconds=60)
DEEP = "[" * 100_000
UNPACKED = 160 << 20
"""Bytes of the compressed message."""


def an_operation() -> Operation:
    facts = {"kind": Kind.START, "state": State.QUEUED, "phase": Phase.QUEUED, "fence": 0, "route": "host.alpha"}
    named = {"id": OperationId.new(), "service": "svc-tiny-dial", "engine": "tiny-test", "created_at": now()}
    return Operation.model_validate({**facts, **named})


def a_message(**changes: Any) -> dict[str, Any]:
    """AIMA's own message of an operation, with other headers, properties or another body."""
    message: dict[str, Any] = json.loads(encode_message(an_operation(), "host.alpha"))
    for part in ("headers", "properties"):
        message[part] |= changes.pop(part, {})
    return message | changes


def body_of(*parts: Any) -> str:
    return b64encode(json.dumps(parts).encode()).decode()


def a_command(method: str = "ping", **fields: Any) -> str:
    """A command on Celery's control channel."""
    body = b64encode(json.dumps({"method": method, "arguments": {}, "destination": None, **fields}).encode()).decode()
    delivery = {"exchange": "celery.pidbox", "routing_key": ""}
    properties = {"delivery_tag": str(uuid.uuid4()), "delivery_info": delivery, "body_encoding": "base64"}
    encoded = {"content-encoding": "utf-8", "content-type": "application/json", "headers": {"clock": 1}}
    return json.dumps({**encoded, "body": body, "properties": properties})


def compressed() -> str:
    """Zeros, packed into less than the limit of a message."""
    packed = zlib.compress(bytes(UNPACKED), 9)
    return json.dumps(a_message(headers={"compression": "application/x-gzip"}, body=b64encode(packed).decode()))


NESTED = b64encode(f"[[], {{}}, {DEEP}".encode()).decode()
FAR = "2100-01-01T00:00:00+00:00"
FOREIGN = {
    "compression": {"headers": {"compression": "application/x-gzip"}},
    "a far eta": {"headers": {"eta": FAR}},
    "an expiry": {"headers": {"expires": FAR}},
    "a time limit": {"headers": {"timelimit": [1, 1]}},
    "a group": {"headers": {"group": "any"}},
    "stamps": {"headers": {"stamps": {"a": "b"}}},
    "an unknown header": {"headers": {"x": 1}},
    "a reply": {"properties": {"reply_to": "host.beta"}},
    "a priority": {"properties": {"priority": 9}},
    "another queue": {"properties": {"delivery_info": {"exchange": "", "routing_key": "host.beta"}}},
    "an exchange": {"properties": {"delivery_info": {"exchange": "celeryev", "routing_key": "host.alpha"}}},
    "a built-in task": {"headers": {"task": "celery.backend_cleanup"}},
    "a pickle": {"content-type": "application/x-python-serialize"},
    "another charset": {"content-encoding": "utf-7"},
    "callbacks": {"body": body_of(["x"], {"where": "host.alpha"}, {"callbacks": [{"task": "aima.stop"}]})},
    "no arguments": {"body": body_of([], {"where": "host.alpha"}, {})},
    "a nested body": {"body": NESTED},
}


# Shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("service", ["svc-tiny-dial", None])
def test_every_message_of_aima_is_accepted_also_when_it_is_requeued(kind, service):
    operation = an_operation().model_copy(update={"kind": kind, "service": service, "engine": service and "tiny-test"})
    message = json.loads(encode_message(operation, "gb10.arm64"))

    check_task(message)
    message["headers"]["redelivered"] = message["properties"]["delivery_info"]["redelivered"] = True
    check_task(message)


@pytest.mark.parametrize("changes", FOREIGN.values(), ids=FOREIGN)
def test_a_task_message_of_another_shape_than_aimas_is_refused(changes):
    with pytest.raises((ValueError, KeyError, RecursionError)):
        check_task(a_message(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"pattern": "(a*)*b", "matcher": "pcre"},
        {"matcher": "glob"},
        {"destination": 7},
        {"destination": [7]},
        {"reply_to": {"exchange": 1, "routing_key": "x"}},
        {"arguments": [1]},
        {"method": ["ping"]},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_control_command_of_another_shape_than_celerys_is_refused(changes):
    with pytest.raises(ValueError, match="not as AIMA sends it"):
        check_control({"method": "ping", "arguments": {}, "destination": None, **changes}, {})
    with pytest.raises(ValueError, match="clock"):
        check_control({"method": "ping"}, {"clock": 10**30})


# A worker process -------------------------------------------------------------------------------------------------


@pytest.fixture
def attacked(a_redis, hosts_of, asked_of):  # noqa: F811 pytest's own way of naming fixtures
    """A Redis, a worker process and an operator."""
    redis = a_redis()
    worker, asked = hosts_of(redis.url).processes[0], asked_of(redis.url)
    with redis.client() as client:
        yield client, worker, asked, redis.url


def dropped_by_alpha(url: str) -> int:
    link = command_link(url)
    try:
        return HostStore(link).get(HostName("alpha")).messages_dropped
    finally:
        link.close()


def peak_of(process: psutil.Process) -> int:
    """The most memory that it ever had, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def executes_the_next(asked, worker, name: str) -> bool:
    ended = asked.have_ended([asked.start(f"svc-tiny-{name}")], within=ENDS_WITHIN)
    return ended and worker.up


POISON = {
    "deep JSON": DEEP,
    "a deep body": json.dumps(a_message(body=NESTED)),
    "a deep header": json.dumps(a_message(headers={"stamps": 0})).replace('"stamps": 0', f'"stamps": {DEEP}'),
    "an oversized message": json.dumps(a_message(headers={"argsrepr": "x" * 2_000_000})),
    **{name: json.dumps(a_message(**changes)) for name, changes in FOREIGN.items()},
}


@pytest.mark.slow
def test_a_worker_survives_every_poisoned_task_message_counts_it_and_executes_the_next_operation(attacked):
    client, worker, asked, url = attacked

    client.lpush(QUEUE, *POISON.values())

    assert executes_the_next(asked, worker, "next"), worker.log()
    assert eventually(lambda: dropped_by_alpha(url) >= len(POISON), within=ENDS_WITHIN), worker.log()
    assert dropped_by_alpha(url) == len(POISON)
    assert eventually(lambda: client.hlen(keys.queue("unacked")) == client.llen(QUEUE) == 0)


@pytest.mark.slow
def test_a_compressed_message_is_never_decompressed(attacked):
    client, worker, asked, url = attacked
    process = psutil.Process(worker.pid)
    before = peak_of(process)

    client.lpush(QUEUE, compressed())

    assert eventually(lambda: dropped_by_alpha(url) == 1, within=ENDS_WITHIN), worker.log()
    assert peak_of(process) - before < UNPACKED / 4
    assert executes_the_next(asked, worker, "next")


@pytest.mark.slow
def test_one_publication_on_the_control_channel_ends_no_worker(attacked):
    client, worker, asked, url = attacked
    poison = [
        DEEP,
        "x" * 1_000_000,
        a_command().replace('"clock": 1', f'"clock": {DEEP}'),
        a_command(arguments=0).replace('"body": "', f'"body": "{b64encode(DEEP.encode()).decode()}'),
        a_command(pattern="((a*)*)*(b)", matcher="pcre"),
        a_command(destination=7),
        a_command(reply_to={"exchange": "x"}),
        a_command().replace('"clock": 1', '"clock": "high"'),
        b"\xff\xfe",
    ]

    assert eventually(lambda: client.publish(CONTROL, poison[0]) > 0), "the worker does not subscribe"
    for message in poison[1:]:
        client.publish(CONTROL, message)

    assert executes_the_next(asked, worker, "next"), worker.log()
    assert eventually(lambda: dropped_by_alpha(url) == len(poison), within=ENDS_WITHIN), worker.log()


@pytest.mark.slow
def test_a_poisoned_unacknowledged_message_does_not_keep_others_from_being_requeued(attacked):
    client, worker, asked, _ = attacked
    long_ago = 1_000
    client.hset(keys.queue("unacked"), "poison", f"[{DEEP}")
    client.zadd(keys.queue("unacked_index"), {"poison": long_ago})

    worker.kill()
    worker.start()  # it requeues what nobody has acknowledged

    assert eventually(lambda: not client.hexists(keys.queue("unacked"), "poison"), within=ENDS_WITHIN), worker.log()
    assert executes_the_next(asked, worker, "next")


# The API node -----------------------------------------------------------------------------------------------------

NO_EVENTS = {
    "deep JSON": f"{OperationId.new()} 1 1-1 {DEEP}",
    "an oversized event": f"{OperationId.new()} 1 1-1 " + '{"phase":"ready","message":"' + "x" * 2_000_000 + '"}',
    "another entry": f"{OperationId.new()} 1 soon " + '{"phase":"ready"}',
    "a list of lists": f"{OperationId.new()} 1 1-1 [[]]",
    "a number beyond all": f"{OperationId.new()} {'9' * 5000} 1-1 " + '{"phase":"ready"}',
    "no text": b"\xff\xfe",
}


def dropped_on(node, channel: str) -> int:  # noqa: F811
    [line] = re.findall(rf'aima_channel_messages_dropped_total{{channel="{channel}"}} (.*)', node.get("/metrics").text)
    return int(float(line))


def test_no_publication_ends_the_event_hub_and_each_is_counted(node, redis):  # noqa: F811
    worker = ScriptedWorker(redis)
    [operation] = node.start()
    with node.following(None) as stream:
        for message in NO_EVENTS.values():
            redis.publish(keys.EVENTS, message)
        redis.publish(keys.EVENTS, f"{operation['id']} 1 9999999999999-1 " + '{"phase":"loading"}')
        worker.is_ready(operation)

        # `reset` if the forged place in the log, which is ahead of all others, was delivered first.
        assert next(each for each in stream if each.event in ("end", "reset"))

    assert dropped_on(node, "events") == len(NO_EVENTS)
    assert node.received(operation["id"])[-1].event == "end"


def test_the_event_hub_survives_whatever_its_connection_raises(node, redis, monkeypatch):  # noqa: F811
    hub, failures = node.server.hub, [ZeroDivisionError("a bug"), RecursionError("deep")]
    deliver = hub._deliver

    def failing(message):
        if failures:
            raise failures.pop()
        deliver(message)

    monkeypatch.setattr(hub, "_deliver", failing)
    worker = ScriptedWorker(redis)
    [operation] = node.start()
    worker.is_ready(operation)

    assert eventually(lambda: redis.publish(keys.EVENTS, "nonsense") >= 0 and not failures)
    assert eventually(lambda: redis.publish(keys.EVENTS, "nonsense") > 0 and hub.dropped > 0)
    assert node.received(operation["id"])[-1].event == "end"


def test_malformed_log_entries_are_dropped_and_the_next_batch_is_delivered(node, redis):  # noqa: F811
    ScriptedWorker(redis)
    node.start(hosts=["alpha"])
    lines = keys.lines("svc-tiny-dial@alpha")
    with node.client.stream("GET", "/v1/services/svc-tiny-dial/logs?follow=true") as response:
        assert response.status_code == 200
        assert eventually(lambda: node.server.logs.followed == 1)
        for text in (DEEP, "x" * 20_000_000, "{}"):
            redis.xadd(lines, {"json": text})
        redis.xadd(lines, {"other": "x"})
        batch = LogBatch(run="run", first=0, lines=({"at": now(), "stream": "stdout", "text": "next"},))
        redis.xadd(lines, {"json": batch.model_dump_json()})

        assert eventually(lambda: dropped_on(node, "logs") == 4, within=ENDS_WITHIN)
        assert any("next" in text for text in response.iter_text())
    redis.delete(lines)


@pytest.mark.parametrize("request_text", [DEEP, '{"instance":"' + "x" * 100_000, "[]", '{"instance":"x"}'])
def test_a_malformed_log_request_is_dropped_and_counted(redis, request_text):
    dropped, received = DroppedMessages(), []
    channel = LogChannel(redis, dropped=dropped)
    redis.rpush(keys.asked("alpha"), request_text, LogRequest(instance="svc-tiny-dial@alpha").model_dump_json())

    first, second = (channel.next_request(HostName("alpha"), within=timedelta(seconds=1)) for _ in range(2))

    dropped.flush(received.append)
    assert (first, received) == (None, [1])
    assert second is not None


# Messages that nobody reads ---------------------------------------------------------------------------------------


def test_the_message_of_a_cancelled_operation_is_removed_from_a_queue_without_a_consumer(node, redis):  # noqa: F811
    silent = ScriptedWorker(redis, routes=("cpu.amd64",))
    silent.leave()
    ended, other = node.start()[0], node.start("svc-asr-pocketsphinx-en-us")[0]
    queue = keys.queue(ended["route"])
    before = redis.llen(queue)

    node.post(f"/v1/operations/{ended['id']}:cancel")

    assert eventually(lambda: redis.llen(queue) == before - 1)
    left = redis.lrange(queue, 0, -1)
    assert [ended["id"] in message for message in left] == [False] * len(left)
    assert any(other["id"] in message for message in left)


def test_messages_on_a_consumed_queue_are_left_to_its_consumer(redis):
    store, operation = OperationStore(redis), an_operation()
    redis.lpush(QUEUE, encode_message(operation, "host.alpha"))
    redis.zadd(keys.ROUTES, {"host.alpha": redis.time()[0] * 1000})

    assert store.withdraw([operation]) == 0
    redis.zrem(keys.ROUTES, "host.alpha")
    assert (store.withdraw([operation]), redis.llen(QUEUE)) == (1, 0)
    assert Cancelled.code == "cancelled"


def test_pending_operations_and_queues_are_measured_by_route(node, redis):  # noqa: F811
    worker = ScriptedWorker(redis)
    [operation] = node.start()
    redis.zadd(keys.WAITING, {operation["id"]: 1})

    text = node.get("/metrics").text

    assert 'aima_operations_pending{route="cpu.amd64"} 1.0' in text
    assert 'aima_queue_length{queue="cpu.amd64"} 1.0' in text
    assert 'aima_queue_length{queue="host.alpha"} 0.0' in text
    assert worker.name == "alpha"
