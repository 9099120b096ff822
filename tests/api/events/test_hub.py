"""The event hub notifies its subscribers of a possible gap and drops closed subscriptions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from aima_api.events.hub import MOST_IN_MESSAGE, QUEUED_EVENTS, EncodedEvent, EventHub, EventSubscription
from aima_api.http.subscriptions import Subscription
from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Event, Phase
from aima_core.redis import keys
from aima_core.redis.connection import following_link
from aima_core.store.operation_records import event_text
from aima_core.store.operations import now

SOON = timedelta(seconds=30)
OPERATION = OperationId("0b5f4c1e-3c1c-4a52-9c55-3f8a3a0f9f21")


AN_EVENT = Event(operation=OPERATION, at=now(), phase=Phase.LOADING, lines=("INFO: loading",))


def an_event(seq: int) -> EncodedEvent:
    return EncodedEvent.of(AN_EVENT.model_copy(update={"seq": seq}), entry=f"{seq}-0")


def test_an_event_is_published_as_it_was_recorded_with_its_number():
    encoded = an_event(7).operation_frame.decode()

    name, data, id = encoded.removesuffix("\n\n").split("\n")
    assert (name, id) == ("event: log", "id: 7")
    assert Event.model_validate_json(data.removeprefix("data: ")) == AN_EVENT.model_copy(update={"seq": 7})


def test_a_subscriber_receives_events_in_order():
    subscription: EventSubscription = Subscription(capacity=QUEUED_EVENTS, missed=True)
    subscription.take()

    for seq in (1, 2, 3):
        subscription.deliver(an_event(seq))

    missed, received = subscription.take()
    assert not missed
    assert [each.seq for each in received] == [1, 2, 3]


def test_a_slow_subscriber_is_notified_of_a_gap_and_its_queue_is_bounded():
    subscription: EventSubscription = Subscription(capacity=QUEUED_EVENTS, missed=True)
    subscription.take()

    for seq in range(QUEUED_EVENTS + 10):
        subscription.deliver(an_event(seq))

    missed, held = subscription.take()
    assert missed
    assert len(held) <= QUEUED_EVENTS
    assert subscription.take() == (False, [])


@pytest.mark.redis
def test_a_reconnect_notifies_every_subscriber_of_a_possible_gap(redis, redis_url):
    async def cut() -> tuple[bool, bool]:
        async with running(redis_url) as hub:
            with hub.subscribed(OPERATION) as subscription:
                at_first = await missed_something(subscription)
                redis.client_kill_filter(_type="pubsub")
                return at_first, await missed_something(subscription)

    assert asyncio.run(cut()) == (True, True)


NO_EVENT = [
    "nonsense",
    "nobody 3 1-1 {}",
    f"{OPERATION} three 1-1 {event_text(AN_EVENT)}",
    f"{OPERATION} 3 1-1 nonsense",
    f"{OPERATION} 3 1-1 []",
    f"{OPERATION} 3 1-1 " + '{"phase":"dancing"}',
    f"{OPERATION} 3 1-1 " + '{"phase":\n\n"ready"}',
]


@pytest.mark.redis
@pytest.mark.parametrize("message", NO_EVENT)
def test_a_malformed_event_is_skipped_and_the_next_one_is_delivered(redis, redis_url, message):
    async def say() -> tuple[bool, list[int]]:
        async with running(redis_url) as hub:
            with hub.subscribed(OPERATION) as subscription:
                subscription.take()
                redis.publish(keys.EVENTS, message)
                redis.publish(keys.EVENTS, f"{OPERATION} 4 1-2 {event_text(AN_EVENT)}")
                await subscription.wait(SOON)
                missed, received = subscription.take()
                return missed, [each.seq for each in received]

    assert asyncio.run(say()) == (False, [4])


@pytest.mark.redis
def test_one_message_delivers_an_event_per_line_up_to_its_limit_and_the_next_message_after_it(redis, redis_url):
    def lines(first: int, number: int) -> str:
        return "\n".join(f"{OPERATION} {seq} 1-{seq} {event_text(AN_EVENT)}" for seq in range(first, first + number))

    async def say() -> tuple[list[int], int]:
        async with running(redis_url) as hub:
            with hub.subscribed(OPERATION) as subscription:
                subscription.take()
                redis.publish(keys.EVENTS, lines(1, MOST_IN_MESSAGE))
                redis.publish(keys.EVENTS, lines(201, MOST_IN_MESSAGE + 1))
                redis.publish(keys.EVENTS, lines(400, 1))
                received: list[int] = []
                while 400 not in received and await subscription.wait(SOON):
                    received += [each.seq for each in subscription.take()[1]]
                return received, hub.dropped

    received, dropped = asyncio.run(say())

    assert received == [*range(1, 1 + MOST_IN_MESSAGE), *range(201, 200 + MOST_IN_MESSAGE), 400]
    assert dropped == 1


@pytest.mark.redis
def test_a_closed_hub_ends_present_and_future_subscriptions(redis_url):
    async def close() -> tuple[bool, bool]:
        async with running(redis_url) as hub:
            with hub.subscribed(None) as before:
                hub.close()
                with hub.subscribed(None) as after:
                    return before.closed, after.closed

    assert asyncio.run(close()) == (True, True)


@asynccontextmanager
async def running(redis_url: str) -> AsyncIterator[EventHub]:
    hub = EventHub(following_link(redis_url))
    with hub.subscribed(OPERATION) as subscription:
        subscription.take()
        task = asyncio.create_task(hub.run())
        assert await missed_something(subscription)  # it is subscribed
    yield hub
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def missed_something(subscription: Subscription) -> bool:
    return await subscription.wait(SOON) and subscription.take()[0]
