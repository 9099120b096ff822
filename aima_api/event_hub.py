"""One subscription per process to everybody's events: each is encoded once and handed to whoever listens.

The hub promises no completeness. Whenever an event may have been lost, on its way or because a listener is slow, the
listener is told that it missed something, and reads the log.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

import structlog
from fastapi.sse import format_sse_event
from pydantic import ValidationError
from redis import RedisError
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.client import PubSub

from aima_core import keys
from aima_core.ids import OperationId
from aima_core.operation_record import event_from
from aima_core.operations import Event

MOST_WAITING = 512
"""Events kept for one slow listener; beyond, it is sent to the log."""
ASKS_AFTER = timedelta(seconds=5)
"""A line that is silent for so long is asked whether it lives, and given up if it stays silent as long again."""
RESTS = timedelta(seconds=1)

_log = structlog.get_logger()


@dataclass(frozen=True)
class Said:
    """An event with its two numbers, encoded once for all followers of its operation, and once for those of all."""

    operation: OperationId
    seq: int
    place: str
    ends: bool
    name: str
    data: str

    @cached_property
    def to_its_followers(self) -> bytes:
        return format_sse_event(data_str=self.data, event=self.name, id=str(self.seq))

    @cached_property
    def to_all_followers(self) -> bytes:
        return format_sse_event(data_str=self.data, event=self.name, id=self.place)


def said(event: Event, place: str) -> Said:
    return Said(
        operation=event.operation,
        seq=event.seq,
        place=place,
        ends=event.phase.state.ended,
        name=_name(event),
        data=event.model_dump_json(exclude_defaults=True),
    )


class Ear:
    """What one listener has yet to hear. Begins with having missed everything."""

    def __init__(self) -> None:
        self.closed = False
        self._said: deque[Said] = deque()
        self._missed = True
        self._woken = asyncio.Event()
        self._woken.set()

    def hear(self, said: Said) -> None:
        if len(self._said) >= MOST_WAITING:
            self.miss()
        elif not self._missed:
            self._said.append(said)
            self._woken.set()

    def miss(self) -> None:
        self._said.clear()
        self._missed = True
        self._woken.set()

    def close(self) -> None:
        self.closed = True
        self._woken.set()

    def take(self) -> tuple[bool, list[Said]]:
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
        self._ears: dict[OperationId | None, set[Ear]] = {}
        self._closed = False

    @property
    def listeners(self) -> int:
        return len(self._all_ears())

    @contextmanager
    def listening(self, operation: OperationId | None) -> Iterator[Ear]:
        """An ear for one operation's events, or for everybody's."""
        ear = Ear()
        if self._closed:
            ear.close()
        self._ears.setdefault(operation, set()).add(ear)
        try:
            yield ear
        finally:
            self._ears[operation].discard(ear)
            if not self._ears[operation]:
                del self._ears[operation]

    def close(self) -> None:
        """Let every listener end, now and from now on."""
        self._closed = True
        for ear in self._all_ears():
            ear.close()

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
            for ear in self._all_ears():
                ear.miss()
        elif message["type"] == "message" and self._ears:
            self._pass_on(message["data"])

    def _pass_on(self, message: str) -> None:
        operation, seq, place, text = message.split(" ", 3)
        ears = [*self._ears.get(OperationId(operation), ()), *self._ears.get(None, ())]
        if not ears:
            return
        try:
            news = said(event_from(text, int(seq)), place)
        except ValidationError as wrong:
            _log.warning("event not understood", operation=operation, reason=str(wrong))
            return
        for ear in ears:
            ear.hear(news)

    def _all_ears(self) -> list[Ear]:
        return [ear for ears in self._ears.values() for ear in ears]


def _name(event: Event) -> str:
    if event.phase.state.ended:
        return "end"
    if event.progress is not None:
        return "progress"
    return "log" if event.lines else "phase"
