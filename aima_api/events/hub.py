"""One subscription per process to everybody's events: each is encoded once and handed to whoever listens.

The hub promises no completeness. Whenever an event may have been lost, on its way or because a listener is slow, the
listener is told that it missed something, and reads the log.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

import structlog
from redis import RedisError
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.client import PubSub

from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Event, Phase
from aima_core.errors import BadId
from aima_core.redis import keys
from aima_core.store.serialization import event_text

MOST_WAITING = 512
"""Events kept for one slow listener; beyond, it is sent to the log."""
ASKS_AFTER = timedelta(seconds=5)
"""A line that is silent for so long is asked whether it lives, and given up if it stays silent as long again."""
RESTS = timedelta(seconds=1)

_log = structlog.get_logger()


@dataclass(frozen=True)
class EncodedEvent:
    """An event with its two numbers, encoded once for all followers of its operation, and once for those of all."""

    operation: OperationId
    seq: int
    place: str
    ends: bool
    name: str
    data: str

    @cached_property
    def to_its_followers(self) -> bytes:
        return _frame(self.name, self.data, id=str(self.seq))

    @cached_property
    def to_all_followers(self) -> bytes:
        return _frame(self.name, self.data, id=self.place)


def encode(event: Event, place: str) -> EncodedEvent:
    """`place` is that in everybody's log."""
    return said_as_recorded(event.operation, event.seq, place, event_text(event))


def said_as_recorded(operation: OperationId, seq: int, place: str, text: str) -> EncodedEvent:
    """The same of an event's text, which goes out as it is but for its number. Raises ValueError where it is none."""
    told = json.loads(text)
    if not isinstance(told, dict) or "\n" in text or "\r" in text:
        raise ValueError(f"{text[:100]!r} is no event")
    ends = Phase(str(told.get("phase"))).state.ended
    kind = "progress" if "progress" in told else "log" if told.get("lines") else "phase"
    return EncodedEvent(operation, seq, place, ends, "end" if ends else kind, f'{{"seq":{seq},{text[1:]}')


def _frame(name: str, data: str, *, id: str) -> bytes:
    """One server-sent event. `data` is JSON in one line: nothing in it is to be split or quoted."""
    return f"event: {name}\ndata: {data}\nid: {id}\n\n".encode()


class Subscription:
    """What one listener has yet to hear. Begins with having missed everything."""

    def __init__(self) -> None:
        self.closed = False
        self._said: deque[EncodedEvent] = deque()
        self._missed = True
        self._woken = asyncio.Event()
        self._woken.set()

    def deliver(self, event: EncodedEvent) -> None:
        if len(self._said) >= MOST_WAITING:
            self.mark_gap()
        elif not self._missed:
            self._said.append(event)
            self._woken.set()

    def mark_gap(self) -> None:
        self._said.clear()
        self._missed = True
        self._woken.set()

    def close(self) -> None:
        self.closed = True
        self._woken.set()

    def take(self) -> tuple[bool, list[EncodedEvent]]:
        """Whether something was missed, and what was heard."""
        taken = self._missed, list(self._said)
        self._said.clear()
        self._missed = False
        self._woken.clear()
        return taken

    async def wait(self, at_most: timedelta) -> bool:
        """Until there is something to take, or it is closed; False when neither came in time."""
        if self.closed:
            return True
        try:
            async with asyncio.timeout(at_most.total_seconds()):
                await self._woken.wait()
        except TimeoutError:
            return False
        return True


class EventHub:
    def __init__(self, redis: AsyncRedis) -> None:
        self._redis = redis
        self._subscriptions: dict[OperationId | None, set[Subscription]] = {}
        self._closed = False

    @property
    def listeners(self) -> int:
        return len(self._all_subscriptions())

    @contextmanager
    def listening(self, operation: OperationId | None) -> Iterator[Subscription]:
        """An ear for one operation's events, or for everybody's."""
        subscription = Subscription()
        if self._closed:
            subscription.close()
        self._subscriptions.setdefault(operation, set()).add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions[operation].discard(subscription)
            if not self._subscriptions[operation]:
                del self._subscriptions[operation]

    def close(self) -> None:
        """Let every listener end, now and from now on."""
        self._closed = True
        for subscription in self._all_subscriptions():
            subscription.close()

    async def run(self) -> None:
        """Listen until cancelled; a lost line is taken up again."""
        try:
            while True:
                try:
                    async with self._redis.pubsub() as pubsub:
                        await self._listen(pubsub)
                except (RedisError, OSError, TimeoutError) as lost:
                    _log.warning("event line lost", reason=str(lost) or type(lost).__name__)
                await asyncio.sleep(RESTS.total_seconds())
        finally:
            await self._redis.aclose()

    async def _listen(self, pubsub: PubSub) -> None:
        async with asyncio.timeout(ASKS_AFTER.total_seconds()):
            await pubsub.subscribe(keys.EVENTS)
        asked = False
        while True:
            message = await pubsub.get_message(timeout=ASKS_AFTER.total_seconds())
            if message is not None:
                asked = False
                self._heard(message)
            elif asked:
                raise TimeoutError("Redis does not answer")
            else:
                asked = True
                await pubsub.ping("aima")

    def _heard(self, message: dict[str, str]) -> None:
        if message["type"] == "subscribe":
            # Also after the client has silently connected anew: what was said meanwhile is lost on this line.
            for subscription in self._all_subscriptions():
                subscription.mark_gap()
        elif message["type"] == "message" and self._subscriptions:
            self._pass_on(message["data"])

    def _pass_on(self, message: str) -> None:
        try:
            id, seq, place, text = message.split(" ", 3)
            operation = OperationId(id)
            if subscriptions := [*self._subscriptions.get(operation, ()), *self._subscriptions.get(None, ())]:
                news = said_as_recorded(operation, int(seq), place, text)
        except (ValueError, BadId) as wrong:
            _log.warning("event not understood", message=message[:200], reason=str(wrong))
            return
        for subscription in subscriptions:
            subscription.deliver(news)

    def _all_subscriptions(self) -> list[Subscription]:
        return [subscription for subscriptions in self._subscriptions.values() for subscription in subscriptions]
