"""Log fan-out: one feed per followed instance and API node renews the follow and hands batches to all subscribers.

A feed runs while the instance has a subscriber. If Redis is unavailable it retries; lost batches show as gaps in the
line numbers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property

import structlog

from aima_api.http.sse import sse_frame
from aima_api.http.subscriptions import Subscription, Subscriptions
from aima_api.logs.channel import BEGINNING, LogChannelClient
from aima_core.domain.ids import HostName, InstanceId
from aima_core.errors import BrokerUnavailable
from aima_core.logs.protocol import LogBatch, LogLine, LogRequest

RENEW_INTERVAL = timedelta(seconds=5)
"""A third of the time after which a host stops publishing."""
QUEUED_BATCHES = 64
"""Per subscriber."""
RETRY_DELAY = timedelta(seconds=1)

_log = structlog.get_logger()


class HostLine(LogLine):
    host: HostName


class EncodedBatch:
    """A batch whose frames are encoded once for all subscribers."""

    def __init__(self, host: HostName, batch: LogBatch) -> None:
        self._host = host
        self.batch = batch

    @cached_property
    def frames(self) -> bytes:
        return line_frames(self._host, self.batch.lines)


LogSubscription = Subscription[EncodedBatch]


def line_frames(host: HostName, lines: Iterable[LogLine]) -> bytes:
    return b"".join(sse_frame("line", host_line(host, line).model_dump_json()) for line in lines)


def host_line(host: HostName, line: LogLine) -> HostLine:
    return HostLine.model_construct(host=host, at=line.at, stream=line.stream, text=line.text)


class LogFanout:
    def __init__(self, channel: LogChannelClient) -> None:
        self._channel = channel
        self._subscriptions: Subscriptions[InstanceId, EncodedBatch] = Subscriptions(capacity=QUEUED_BATCHES)
        self._feeds: dict[InstanceId, asyncio.Task[None]] = {}

    @property
    def followed(self) -> int:
        """Instances with a subscriber."""
        return len(self._feeds)

    @contextmanager
    def subscribed(self, instance: InstanceId) -> Iterator[LogSubscription]:
        try:
            with self._subscriptions.open(instance) as subscription:
                if instance not in self._feeds:
                    self._feeds[instance] = asyncio.create_task(self._feed(instance))
                yield subscription
        finally:
            if not self._subscriptions.of(instance):
                self._feeds.pop(instance).cancel()

    def close(self) -> None:
        """Ends every subscriber, current and future."""
        self._subscriptions.close()

    async def disconnect(self) -> None:
        self.close()
        await self._channel.close()

    async def _feed(self, instance: InstanceId) -> None:
        entry, renewed_at = BEGINNING, float("-inf")
        while True:
            try:
                wait = renewed_at + RENEW_INTERVAL.total_seconds() - time.monotonic()
                if wait <= 0:
                    await self._channel.send(LogRequest(instance=instance, follow=True))
                    renewed_at = time.monotonic()
                    continue
                entry, batches = await self._channel.batches(instance, entry, within=timedelta(seconds=wait))
                for batch in batches:
                    encoded = EncodedBatch(instance.host, batch)
                    for subscription in self._subscriptions.of(instance):
                        subscription.deliver(encoded)
            except BrokerUnavailable as unavailable:
                _log.warning("log feed interrupted", instance=instance, reason=str(unavailable))
                await asyncio.sleep(RETRY_DELAY.total_seconds())
            except Exception:  # noqa: BLE001 the error boundary of the loop: its subscribers would wait for ever
                _log.exception("log feed failed", instance=instance)
                await asyncio.sleep(RETRY_DELAY.total_seconds())
