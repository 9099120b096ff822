"""Follows the events of one operation across lost connections: each event once and in order.

A lost stream is reconnected with backoff and resumed after the last sequence number, which removes duplicates. A gap in
the numbers is requested again, and bridged by a snapshot, the operation's record, if the API no longer has the events.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from aima_api.client import Api, ApiError, path_of
from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Event, Operation
from aima_core.errors import ApiUnavailable

RECONNECT_TIMEOUT = timedelta(minutes=2)
FIRST_DELAY = timedelta(milliseconds=200)
MAX_DELAY = timedelta(seconds=5)


@dataclass(frozen=True)
class ConnectionLost:
    """The stream is lost, and will be connected again."""

    reason: str


Received = TypeVar("Received")
Update = Event | Operation | ConnectionLost
"""An Operation stands for all events up to its `seq`."""


class Reconnect:
    """Exponential backoff with jitter between connection attempts, until nothing was received for `timeout`."""

    def __init__(
        self,
        *,
        retries_first: bool = True,
        timeout: timedelta = RECONNECT_TIMEOUT,
        first_delay: timedelta = FIRST_DELAY,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._retries = retries_first
        """Whether a failed connection is retried, even before any has succeeded."""
        self._timeout = timeout
        self._first_delay = first_delay
        self._sleep = sleep
        self._clock = clock
        self._failures = 0
        self._received_at = clock()

    def connected(self, connect: Callable[[], Generator[Received, None, bool]]) -> Iterator[Received | ConnectionLost]:
        """What each connection yields, until one returns that the stream has ended.

        Raises the connection's error if another attempt is useless, or the timeout has passed.
        """
        ended = False
        while not ended:
            try:
                ended = yield from connect()
            except (ApiUnavailable, ApiError) as lost:
                permanent = isinstance(lost, ApiError) and not lost.transient
                silent_for = self._clock() - self._received_at
                if permanent or not self._retries or silent_for > self._timeout.total_seconds():
                    raise
                yield ConnectionLost(str(lost))
            if not ended:
                self._wait()

    def received(self) -> None:
        """Something came: the next delay is the first again."""
        self._retries = True
        self._failures = 0
        self._received_at = self._clock()

    def _wait(self) -> None:
        delay = min(self._first_delay * 2**self._failures, MAX_DELAY)
        self._failures = min(self._failures + 1, 10)
        self._sleep(delay.total_seconds() * random.uniform(0.5, 1))


class EventFollower:
    def __init__(self, api: Api, operation: OperationId, *, reconnect: Reconnect | None = None) -> None:
        self._api = api
        self._operation = operation
        self._reconnect = reconnect or Reconnect()
        self._last = 0

    def __iter__(self) -> Iterator[Update]:
        """Updates until the operation has ended. Raises ApiError, or ApiUnavailable after RECONNECT_TIMEOUT."""
        return self._reconnect.connected(self._connect_once)

    def _connect_once(self) -> Generator[Update, None, bool]:
        """One connection, or the record if that brought nothing; returns whether the operation has ended."""
        before = self._last
        for update in self._stream():
            yield update
            if (update.phase.state if isinstance(update, Event) else update.state).ended:
                return True
        return (yield from self._bridge()) if self._last == before else False

    def _stream(self) -> Iterator[Event | Operation]:
        path = path_of("operations", self._operation, "events")
        with self._api.stream(path, after=self._last) as stream:
            for message in stream:
                if message.event == "reset":
                    update: Event | Operation = self._api.read(Operation, message.json())
                else:
                    update = self._api.read(Event, message.json())
                    if update.seq > self._last + 1:
                        return  # a gap: connect again after the last number received
                    if update.seq <= self._last:
                        continue
                self._received(update)
                yield update

    def _bridge(self) -> Generator[Update, None, bool]:
        """The record, if it is ahead of the events or has ended; returns whether it has ended."""
        record = self._api.read(Operation, self._api.get(path_of("operations", self._operation)))
        if record.seq > self._last or record.state.ended:
            self._received(record)
            yield record
        return record.state.ended

    def _received(self, update: Event | Operation) -> None:
        self._last = update.seq
        self._reconnect.received()


def follow_all(
    api: Api, after: str, *, reconnect: Reconnect | None = None
) -> Iterator[dict[str, Any] | ConnectionLost]:
    """The events of all operations after that entry, until an error that another attempt does not solve.

    Events that were trimmed from the log while the connection was lost are missing.
    """
    last, reconnect = after, reconnect or Reconnect()

    def connect_once() -> Generator[dict[str, Any], None, bool]:
        nonlocal last
        with api.stream("/v1/events", after=last) as stream:
            for message in stream:
                last = message.id or last
                reconnect.received()
                if message.event != "reset":
                    yield message.json()
        return False

    return reconnect.connected(connect_once)
