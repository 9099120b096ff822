"""The event hub: one Redis pub/sub subscription per process, fanned out to all followers.

Pub/sub delivers at most once. Whenever an event may have been lost, by a reconnect or because a follower is slow, the
hub marks a gap in the follower's subscription, and the follower reads the log.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

import structlog
from pydantic import ByteSize
from pydantic_core import from_json
from redis import RedisError
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.client import PubSub

from aima_api.http.sse import sse_frame
from aima_api.http.subscriptions import Subscription, Subscriptions
from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Event, Phase
from aima_core.redis import keys
from aima_core.store.operation_records import event_text

QUEUED_EVENTS = 512
"""Per follower."""
PING_INTERVAL = timedelta(seconds=5)
"""A silent connection is pinged after this time, and closed if no reply comes within the same time."""
RECONNECT_DELAY = timedelta(seconds=1)
EVENT_LIMIT = ByteSize(1 << 20)
"""Characters of one event before it is decoded; a start reports at most a few log lines of 16 KiB at once."""
MOST_IN_MESSAGE = 100
"""Events, a line each, that a script publishes in one message."""
_ENTRY = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")

_log = structlog.get_logger()


@dataclass(frozen=True)
class EncodedEvent:
    """An event as recorded, with its two numbers; encoded once for all subscribers of either kind."""

    seq: int
    """Number within its operation."""
    entry: str
    """Entry in the common log."""
    ends: bool
    name: str
    data: str

    @classmethod
    def of(cls, event: Event, *, entry: str = "") -> EncodedEvent:
        return cls.from_text(event_text(event), seq=event.seq, entry=entry)

    @classmethod
    def from_text(cls, text: str, *, seq: int, entry: str) -> EncodedEvent:
        """Raises ValueError if the text is no event."""
        event = from_json(text)  # unlike `json`, it refuses deep nesting with a ValueError
        if not isinstance(event, dict) or "\n" in text or "\r" in text:
            raise ValueError(f"{text[:100]!r} is no event")
        ends = Phase(str(event.get("phase"))).state.ended
        kind = "progress" if "progress" in event else "log" if event.get("lines") else "phase"
        return cls(seq, entry, ends, "end" if ends else kind, f'{{"seq":{seq},{text[1:]}')

    @cached_property
    def operation_frame(self) -> bytes:
        return sse_frame(self.name, self.data, id=str(self.seq))

    @cached_property
    def common_frame(self) -> bytes:
        return sse_frame(self.name, self.data, id=self.entry)


EventSubscription = Subscription[EncodedEvent]


class EventHub:
    def __init__(self, redis: AsyncRedis) -> None:
        self._redis = redis
        self.dropped = 0
        """Messages that were no events."""
        self._subscriptions: Subscriptions[OperationId | None, EncodedEvent] = Subscriptions(
            capacity=QUEUED_EVENTS, missed=True
        )

    @property
    def listeners(self) -> int:
        return len(self._subscriptions.all())

    def subscribed(self, operation: OperationId | None) -> AbstractContextManager[EventSubscription]:
        """A subscription to one operation's events, or to all; begins with a gap."""
        return self._subscriptions.open(operation)

    def close(self) -> None:
        """Ends every subscriber, current and future."""
        self._subscriptions.close()

    async def run(self) -> None:
        """Delivers events until cancelled; reconnects for ever."""
        try:
            while True:
                try:
                    async with self._redis.pubsub() as pubsub:
                        await self._deliver_all(pubsub)
                except (RedisError, OSError, TimeoutError) as lost:
                    _log.warning("event subscription lost", reason=str(lost) or type(lost).__name__)
                except Exception:  # noqa: BLE001 the error boundary of the loop: without it, no event is delivered again
                    _log.exception("event subscription failed")
                await asyncio.sleep(RECONNECT_DELAY.total_seconds())
        finally:
            await self._redis.aclose()

    async def _deliver_all(self, pubsub: PubSub) -> None:
        async with asyncio.timeout(PING_INTERVAL.total_seconds()):
            await pubsub.subscribe(keys.EVENTS)
        pinged = False
        while True:
            message = await pubsub.get_message(timeout=PING_INTERVAL.total_seconds())
            if message is None:
                if pinged:
                    raise TimeoutError("no reply to a ping")
                await pubsub.ping("aima")
            elif message["type"] == "subscribe":
                # Also after the client has reconnected by itself: events published meanwhile are lost here.
                for subscription in self._subscriptions.all():
                    subscription.mark_gap()
            elif message["type"] == "message":
                for line in message["data"].split("\n", MOST_IN_MESSAGE - 1):
                    self._deliver(line)
            pinged = message is None

    def _deliver(self, line: str) -> None:
        try:
            if len(line) > EVENT_LIMIT:
                raise ValueError(f"it has {len(line)} characters, and the limit is {EVENT_LIMIT}")
            id, seq, entry, text = line.split(" ", 3)
            if not _ENTRY.fullmatch(entry):
                raise ValueError(f"{entry[:100]!r} is no entry of the log")
            operation = OperationId(id)
            if subscriptions := self._subscriptions.of(operation) + self._subscriptions.of(None):
                event = EncodedEvent.from_text(text, seq=int(seq), entry=entry)
        except Exception as malformed:  # noqa: BLE001 any client of Redis may publish anything
            self.dropped += 1
            _log.warning("event dropped", message=line[:200], reason=str(malformed)[:200])
            return
        for subscription in subscriptions:
            subscription.deliver(event)
