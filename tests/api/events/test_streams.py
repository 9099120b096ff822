"""Event streams deliver every event exactly once and in order, across reconnects, Redis restarts and node restarts."""

from __future__ import annotations

import asyncio
import random
import time
from datetime import timedelta
from threading import Thread

import pytest
from api.node import ScriptedWorker, api_node, events_of, numbers
from lab.parts import eventually

from aima_api.events.hub import EventHub
from aima_api.events.stream import EventStreams
from aima_api.http.server import SHUTDOWN_TIMEOUT
from aima_api.http.sse import HEARTBEAT_INTERVAL
from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Event, Phase
from aima_core.redis import keys
from aima_core.redis.connection import command_link, following_link
from aima_core.store.operations import OperationStore, now

pytestmark = pytest.mark.redis


@pytest.fixture
def start(node, worker):
    """A running operation with the events `queued` and its first phase."""
    [operation] = node.start()
    worker.claim_start(operation["id"])
    worker.says(operation["id"], Phase.STARTING)
    return operation["id"]


def test_a_follower_receives_past_and_future_events_up_to_the_end(node, worker, start):
    with node.following(start) as stream:
        begun = [next(stream), next(stream)]
        worker.says(start, message="loading weights", lines=("line 1",))
        worker.says(start, Phase.READY, endpoint="http://127.0.0.1:20000")
        rest = list(stream)

    received = [*begun, *rest]
    assert numbers(received) == [1, 2, 3, 4]
    assert [each.event for each in received] == ["phase", "phase", "log", "end"]
    assert events_of(received)[2]["lines"] == ["line 1"]
    assert events_of(received)[3]["endpoint"] == "http://127.0.0.1:20000"
    assert [each["seq"] for each in events_of(received)] == [1, 2, 3, 4]


def test_a_follower_that_reconnects_resumes_after_its_last_event(node, worker, start):
    for _ in range(5):
        worker.says(start)
    worker.says(start, Phase.READY)

    received = node.received(start, after=4)

    assert numbers(received) == [5, 6, 7, 8]


def test_a_stream_of_an_ended_operation_ends_even_without_new_events(node, worker, start):
    worker.says(start, Phase.READY)

    assert node.received(start, after=3) == []


def test_followers_that_reconnect_during_many_events_receive_each_exactly_once(node, worker, start):
    storm = Thread(target=lambda: [worker.says(start, message=str(count)) for count in range(600)])
    storm.start()

    received: list[int] = []
    while len(received) < 602:
        with node.following(start, after=received[-1] if received else None) as stream:
            for event in stream:
                received.append(int(event.id))
                if len(received) >= 602 or random.random() < 0.02:
                    break

    storm.join()
    assert received == list(range(1, 603))


def test_a_follower_slower_than_its_queue_still_receives_every_event(node, worker, start):
    line = "x" * 8000

    with node.following(start) as stream:
        first = next(stream)
        for _ in range(1200):
            worker.says(start, lines=(line,))
        worker.says(start, Phase.READY)
        received = [first, *stream]

    assert numbers(received) == list(range(1, 1204))


def test_an_event_lost_by_the_connection_is_read_from_the_log(node, worker, start, redis):
    with node.following(start) as stream:
        received = [next(stream), next(stream)]
        redis.hincrby(keys.operation(start), "seq", 1)
        redis.xadd(keys.log(start), {"event": a_late_event(start)}, id="3-0")  # and not published
        began = time.monotonic()
        worker.says(start, Phase.READY)
        received += stream

    assert numbers(received) == [1, 2, 3, 4]
    assert time.monotonic() - began < HEARTBEAT_INTERVAL.total_seconds() / 2


def test_a_truncated_log_is_replaced_by_a_snapshot_of_the_record(node, worker, start, redis):
    for _ in range(3):
        worker.says(start)
    redis.xtrim(keys.log(start), maxlen=1, approximate=False)

    with node.following(start, after=2) as stream:
        reset = next(stream)
        worker.says(start, Phase.READY)
        rest = list(stream)

    assert (reset.event, reset.id) == ("reset", "5")
    assert events_of([reset])[0]["seq"] == 5
    assert numbers(rest) == [6]


def test_the_end_is_sent_even_if_the_log_is_truncated(node, worker, start, redis):
    worker.says(start)
    worker.says(start, Phase.READY)
    redis.xtrim(keys.log(start), maxlen=1, approximate=False)

    received = node.received(start)

    assert [each.event for each in received] == ["reset", "end"]


def test_a_record_that_redis_lost_ends_the_stream_with_the_reason(node, worker, start, redis):
    with node.following(start) as stream:
        first = [next(stream), next(stream)]
        redis.delete(keys.operation(start), keys.log(start))
        redis.publish(keys.EVENTS, f"{start} 9 1-1 {a_late_event(start)}")
        received = [*first, *stream]

    assert received[-1].event == "end"
    assert events_of(received)[-1]["failure"]["code"] == "operation_lost"


def a_late_event(operation: str) -> str:
    return Event(operation=OperationId(operation), at=now(), phase=Phase.LOADING).model_dump_json()


def test_a_malformed_event_disturbs_no_follower(node, worker, start, redis):
    with node.following(start) as stream:
        next(stream)
        redis.publish(keys.EVENTS, f"{start} 3 1-1 nonsense")
        worker.says(start, Phase.READY)

        assert numbers(list(stream)) == [2, 3]


def test_a_follower_receives_every_event_across_a_restart_of_redis(own_redis):
    redis = command_link(own_redis.url)
    worker = ScriptedWorker(redis)
    with api_node(own_redis.url) as node:
        [operation] = node.start()
        worker.claim_start(operation["id"])
        worker.says(operation["id"], Phase.STARTING)
        with node.following(operation["id"]) as stream:
            received = [next(stream), next(stream)]
            own_redis.stop()
            own_redis.start()
            worker.says(operation["id"])
            worker.says(operation["id"], Phase.READY)
            received += stream
    redis.close()

    assert numbers(received) == [1, 2, 3, 4]


def test_a_stream_closes_at_once_when_its_api_node_shuts_down(redis_url, redis):
    worker = ScriptedWorker(redis)
    with api_node(redis_url) as node:
        [operation] = node.start()
        worker.claim_start(operation["id"])
        with node.following(operation["id"]) as stream:
            next(stream)
            began = time.monotonic()
            node.server.should_exit = True
            left = list(stream)

    assert left == []
    assert time.monotonic() - began < SHUTDOWN_TIMEOUT.total_seconds()


def test_followers_on_two_api_nodes_receive_the_same_events(node, worker, start, redis_url):
    with api_node(redis_url) as other, other.following(start, after=1) as stream:
        assert next(stream).id == "2"
        worker.says(start, Phase.READY)

        assert numbers(list(stream)) == [3]


def test_no_follower_leaves_a_subscription_behind(node, worker, start):
    for _ in range(3):
        with node.following(start) as stream:
            next(stream)

    assert eventually(lambda: node.server.hub.listeners == 0)


def test_an_event_stream_is_neither_cached_nor_buffered(node, start):
    with node.client.stream("GET", f"/v1/operations/{start}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-accel-buffering"] == "no"


def test_an_idle_stream_sends_heartbeats(node, start, redis, redis_url):
    async def beats() -> bytes:
        hub = EventHub(following_link(redis_url))
        streams = EventStreams(hub, OperationStore(redis), heartbeat_interval=timedelta(milliseconds=50))
        stream = streams.of_operation(OperationId(start), after=2)
        beat = await anext(stream)
        await stream.aclose()
        return beat

    assert asyncio.run(beats()) == b": \n\n"


def test_events_delayed_by_a_silently_dead_connection_arrive_with_the_heartbeat(node, worker, start, redis, redis_url):
    async def hears() -> bytes:
        deaf = EventHub(following_link(redis_url))  # never started
        streams = EventStreams(deaf, OperationStore(redis), heartbeat_interval=timedelta(milliseconds=50))
        stream = streams.of_operation(OperationId(start), after=2)
        await anext(stream)
        worker.says(start, Phase.READY)
        return await anext(stream)

    assert b"event: end" in asyncio.run(hears())


# Events of all operations -----------------------------------------------------------------------------------------


def test_a_follower_of_all_operations_receives_new_events_and_resumes_where_it_was(node, worker, start):
    with node.following(None) as stream:
        worker.says(start, message="one")
        first = next(stream)
    worker.says(start, message="two")
    [other] = node.post("/v1/images:pull", {"engine": "ollama-cpu", "hosts": ["alpha"]}).json()["operations"]

    with node.following(None, after=first.id) as stream:
        received = [next(stream), next(stream)]
        worker.says(start, message="three")
        received.append(next(stream))

    assert [each.get("message") for each in events_of([first, *received])] == ["one", "two", None, "three"]
    assert [each["operation"] for each in events_of(received)] == [start, other["id"], start]


def test_followers_of_all_operations_that_reconnect_receive_each_event_exactly_once(node, worker, start):
    with node.following(None) as stream:
        worker.says(start, message="-1")
        last = next(stream).id
    storm = Thread(target=lambda: [worker.says(start, message=str(count)) for count in range(400)])
    storm.start()

    received: list[str] = []
    while len(received) < 400:
        with node.following(None, after=last) as stream:
            for event in stream:
                last = event.id
                received.append(event.json()["message"])
                if len(received) >= 400 or random.random() < 0.05:
                    break

    storm.join()
    assert received == [str(count) for count in range(400)]


def test_a_follower_of_all_operations_that_missed_too_much_is_sent_a_reset(node, worker, start, redis):
    with node.following(None, after="1-1") as stream:
        reset = next(stream)
        worker.says(start, message="new")
        received = next(stream)

    assert reset.event == "reset"
    assert events_of([received])[0]["message"] == "new"


@pytest.mark.parametrize(("path", "last"), [("events", "yesterday"), ("operations/{id}/events", "1-1")])
def test_an_event_id_of_another_stream_is_refused(node, start, path, last):
    answer = node.get(f"/v1/{path.format(id=start)}", headers={"Last-Event-ID": last})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
