"""One feed per followed instance and process: it keeps asking the host, and hands batches to all who listen.

A feed lives while somebody listens. What a listener is too slow to take is dropped for it alone; the count in the
batches tells it how much that was.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property

import structlog
from fastapi.sse import format_sse_event

from aima_api.logs.channel import BEGINNING, LogChannelClient
from aima_core.domain.ids import HostName, InstanceId
from aima_core.errors import BrokerUnavailable
from aima_core.logs.protocol import Line, LogBatch, LogRequest

ASKS_EVERY = timedelta(seconds=5)
"""A third of the time for which a host goes on publishing unasked."""
MOST_WAITING = 64
"""Batches kept for one slow listener."""
RESTS = timedelta(seconds=1)

_log = structlog.get_logger()


class HostLine(Line):
    """A line, and the host that it comes from."""

    host: HostName


class Heard:
    """A batch as listeners get it, encoded once for all of them."""

    def __init__(self, host: HostName, batch: LogBatch) -> None:
        self._host = host
        self.batch = batch

    @cached_property
    def frames(self) -> bytes:
        return b"".join(line_frame(self._host, line) for line in self.batch.lines)


def line_frame(host: HostName, line: Line) -> bytes:
    told = HostLine.model_construct(host=host, at=line.at, stream=line.stream, text=line.text)
    return format_sse_event(data_str=told.model_dump_json(), event="line")


class LogSubscription:
    """What one listener has yet to take."""

    def __init__(self) -> None:
        self.closed = False
        self.overflowed = False
        """Batches were dropped since they were not taken."""
        self._waiting: deque[Heard] = deque()
        self._woken = asyncio.Event()

    def deliver(self, heard: Heard) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self.overflowed = True
        self._waiting.append(heard)
        self._woken.set()

    def close(self) -> None:
        self.closed = True
        self._woken.set()

    def forget_others(self, run: str) -> None:
        """Drop what has come of any other count, such as a worker's that is no more."""
        self._waiting = deque(heard for heard in self._waiting if heard.batch.run == run)

    async def next(self, *, within: timedelta) -> Heard | None:
        """None if nothing came, or it is closed."""
        if not self._waiting and not self.closed:
            self._woken.clear()
            try:
                async with asyncio.timeout(within.total_seconds()):
                    await self._woken.wait()
            except TimeoutError:
                return None
        return self._waiting.popleft() if self._waiting else None


class LogFanout:
    def __init__(
        self, link: LogChannelClient, *, asks_every: timedelta = ASKS_EVERY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._link = link
        self._asks_every = asks_every
        self._clock = clock
        self._subscriptions: dict[InstanceId, set[LogSubscription]] = {}
        self._feeds: dict[InstanceId, asyncio.Task[None]] = {}
        self._closed = False

    @contextmanager
    def listening(self, instance: InstanceId) -> Iterator[LogSubscription]:
        subscription = LogSubscription()
        if self._closed:
            subscription.close()
        subscriptions = self._subscriptions.setdefault(instance, set())
        subscriptions.add(subscription)
        if instance not in self._feeds:
            self._feeds[instance] = asyncio.create_task(self._feed(instance, subscriptions))
        try:
            yield subscription
        finally:
            subscriptions.discard(subscription)
            if not subscriptions:
                self._feeds.pop(instance).cancel()
                del self._subscriptions[instance]

    @property
    def followed(self) -> int:
        """How many instances somebody listens to."""
        return len(self._feeds)

    async def end(self) -> None:
        """Close, and let go of the line to Redis."""
        self.close()
        await self._link.close()

    def close(self) -> None:
        """Let every listener end, now and from now on."""
        self._closed = True
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.close()

    async def _feed(self, instance: InstanceId, subscriptions: set[LogSubscription]) -> None:
        place, asked_at = BEGINNING, float("-inf")
        while True:
            try:
                wait = asked_at + self._asks_every.total_seconds() - self._clock()
                if wait <= 0:
                    await self._link.ask(LogRequest(instance=instance, follow=True))
                    asked_at = self._clock()
                    continue
                place, batches = await self._link.batches(instance, place, within=timedelta(seconds=wait))
                for heard in [Heard(instance.host, batch) for batch in batches]:
                    for subscription in subscriptions:
                        subscription.deliver(heard)
            except BrokerUnavailable as away:
                _log.warning("log lines cannot be followed", instance=instance, why=str(away))
                await asyncio.sleep(RESTS.total_seconds())
