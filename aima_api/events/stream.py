"""Event streams: replay from the log, then live events, without gap or duplicate.

The subscription opens before the log is read. Event numbers show duplicates, which are dropped, and gaps, after which
the log is read again. If it was trimmed, a `reset` event carries the record that replaces all events up to its number.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Generic, TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from aima_api.events.hub import EncodedEvent, EventHub, EventSubscription
from aima_api.http.sse import HEARTBEAT_FRAME, HEARTBEAT_INTERVAL, sse_frame
from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Event, Operation, Phase
from aima_core.errors import BrokerUnavailable, CorruptData, OperationLost, UnknownOperation
from aima_core.store.operations import OperationStore, now

RETRY_DELAY = timedelta(seconds=2)
"""After Redis was unavailable."""
_Cursor = TypeVar("_Cursor")


@dataclass(frozen=True)
class _Update(Generic[_Cursor]):
    frames: bytes
    after: _Cursor
    """The follower's cursor once it has received the frames."""
    ended: bool = False


class EventStreams:
    """Streams of server-sent events; each ends when the hub closes."""

    def __init__(
        self, hub: EventHub, operations: OperationStore, *, heartbeat_interval: timedelta = HEARTBEAT_INTERVAL
    ) -> None:
        self._hub = hub
        self._operations = operations
        self._heartbeat_interval = heartbeat_interval
        self._threads = CapacityLimiter(8)  # so that followers of a frozen Redis leave threads to requests

    async def of_operation(self, id: OperationId, after: int) -> AsyncGenerator[bytes, None]:
        """The events after that number, up to the operation's end."""
        with self._hub.subscribed(id) as subscription:
            replay = partial(self._replay, id)
            async for frames in self._follow(subscription, after, live=_live, replay=replay):
                yield frames

    async def of_all(self, after: str) -> AsyncGenerator[bytes, None]:
        """The events of all operations after that entry of the common log."""
        with self._hub.subscribed(None) as subscription:
            async for frames in self._follow(subscription, after, live=_live_of_all, replay=self._replay_all):
                yield frames

    async def _follow(
        self,
        subscription: EventSubscription,
        after: _Cursor,
        *,
        live: Callable[[list[EncodedEvent], _Cursor], _Update[_Cursor] | None],
        replay: Callable[[_Cursor], _Update[_Cursor]],
    ) -> AsyncIterator[bytes]:
        """`live` returns None if there is a gap; `replay` reads the log."""
        behind = True
        while not subscription.closed:
            missed, events = subscription.take()
            update = None if missed or behind else live(events, after)
            update = update or await self._read(replay, after)
            if update is not None:
                after = update.after
                if update.frames:
                    yield update.frames
                if update.ended:
                    return
            behind = update is None
            if not await subscription.wait(RETRY_DELAY if behind else self._heartbeat_interval):
                yield HEARTBEAT_FRAME
                behind = True  # silence may mean that the connection to Redis is dead

    async def _read(self, replay: Callable[[_Cursor], _Update[_Cursor]], after: _Cursor) -> _Update[_Cursor] | None:
        """None while Redis is unavailable, or holds data that is not AIMA's."""
        try:
            return await run_sync(replay, after, limiter=self._threads)
        except (BrokerUnavailable, CorruptData):
            return None

    def _replay(self, id: OperationId, after: int) -> _Update[int]:
        try:
            record = self._operations.get(id)
        except UnknownOperation:
            lost = Event(operation=id, seq=after + 1, at=now(), phase=Phase.FAILED, failure=OperationLost().failure)
            return _replayed([lost])
        events = self._operations.events(id, after=after)
        if events and events[0].seq == after + 1:
            return _replayed(events)
        if not events and record.seq == after:
            return _Update(b"", after, ended=record.state.ended)
        return _reset(record, events)

    def _replay_all(self, after: str) -> _Update[str]:
        events = self._operations.all_events(after)
        if events is None:  # the log was trimmed
            last = self._operations.last_event_id()
            return _Update(sse_frame("reset", "{}", id=last), last)
        frames = [EncodedEvent.of(event, entry=entry).common_frame for entry, event in events]
        return _Update(b"".join(frames), events[-1][0] if events else after)


def _live(events: list[EncodedEvent], after: int) -> _Update[int] | None:
    frames, ended = [], False
    for event in events:
        if event.seq > after + 1:
            return None
        if event.seq == after + 1:
            frames.append(event.operation_frame)
            after, ended = event.seq, event.ends
    return _Update(b"".join(frames), after, ended)


def _replayed(events: list[Event], before: bytes = b"") -> _Update[int]:
    encoded = [EncodedEvent.of(event) for event in events]
    return _Update(before + b"".join(event.operation_frame for event in encoded), encoded[-1].seq, encoded[-1].ends)


def _reset(record: Operation, events: list[Event]) -> _Update[int]:
    """The record in place of trimmed events; an end is sent as an event nevertheless."""
    number = record.seq - 1 if record.state.ended else record.seq
    frame = sse_frame("reset", record.model_dump_json(), id=str(number))
    rest = [event for event in events if event.seq > number]
    return _replayed(rest, frame) if rest else _Update(frame, number, record.state.ended)


def _live_of_all(events: list[EncodedEvent], after: str) -> _Update[str] | None:
    """None if all events are older than the cursor, which a forged entry may have moved ahead."""
    new = [event for event in events if _order(event.entry) > _order(after)]
    if events and not new:
        return None
    return _Update(b"".join(event.common_frame for event in new), new[-1].entry if new else after)


def _order(entry: str) -> tuple[int, int]:
    ms, _, count = entry.partition("-")
    return int(ms), int(count)
