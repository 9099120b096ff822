"""Events as a follower gets them: first from the log, then as they happen, none missed and none twice.

A listener is put up before the log is read, so nothing falls between; what the log gave already is dropped by its
number, and a hole in the numbers sends the follower back to the log. Where the log no longer reaches back, a `reset`
says so: it carries the operation's record, which stands for all events up to its number.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from aima_api.events.hub import EncodedEvent, EventHub, EventSubscription
from aima_api.http.sse import HEARTBEAT_FRAME, HEARTBEAT_INTERVAL, sse_frame
from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Event, Operation, Phase
from aima_core.errors import BrokerUnavailable, OperationLost, UnknownOperation
from aima_core.store.operations import OperationStore, now

ASKS_AGAIN = timedelta(seconds=2)
"""How long a follower waits when the log could not be read."""
_After = TypeVar("_After")


@dataclass(frozen=True)
class _News(Generic[_After]):
    frames: bytes
    after: _After
    """What the follower has seen with them."""
    ended: bool = False


class EventStreams:
    """Streams of server-sent events; each ends when the hub is closed."""

    def __init__(
        self, hub: EventHub, operations: OperationStore, *, heartbeat_interval: timedelta = HEARTBEAT_INTERVAL
    ) -> None:
        self._hub = hub
        self._operations = operations
        self._heartbeat_interval = heartbeat_interval
        self._readers = CapacityLimiter(8)  # so that followers of a frozen Redis leave threads to requests

    async def of_operation(self, id: OperationId, after: int) -> AsyncGenerator[bytes, None]:
        """From the event after that number on, to the operation's end."""
        with self._hub.subscribed(id) as subscription:
            async for frames in self._follow(
                subscription, after, _on_line, lambda seen: _in_log(self._operations, id, seen)
            ):
                yield frames

    async def of_all(self, after: str) -> AsyncGenerator[bytes, None]:
        """From that place of everybody's log on."""
        with self._hub.subscribed(None) as subscription:
            async for frames in self._follow(
                subscription, after, _on_line_of_all, lambda seen: _in_log_of_all(self._operations, seen)
            ):
                yield frames

    async def _follow(
        self,
        subscription: EventSubscription,
        after: _After,
        on_line: Callable[[list[EncodedEvent], _After], _News[_After] | None],
        in_log: Callable[[_After], _News[_After]],
    ) -> AsyncIterator[bytes]:
        behind = True
        while not subscription.closed:
            missed, heard = subscription.take()
            news = None if missed or behind else on_line(heard, after)
            news = news or await self._read(in_log, after)
            if news is not None:
                after = news.after
                if news.frames:
                    yield news.frames
                if news.ended:
                    return
            behind = news is None
            if not await subscription.wait(ASKS_AGAIN if behind else self._heartbeat_interval):
                yield HEARTBEAT_FRAME
                behind = True  # a silence may be a line that died unnoticed

    async def _read(self, in_log: Callable[[_After], _News[_After]], after: _After) -> _News[_After] | None:
        """None when Redis is away."""
        try:
            return await run_sync(in_log, after, limiter=self._readers)
        except BrokerUnavailable:
            return None


# One operation's --------------------------------------------------------------------------------------------------


def _on_line(heard: list[EncodedEvent], after: int) -> _News[int] | None:
    """None where numbers are missing."""
    frames, ended = [], False
    for each in heard:
        if each.seq > after + 1:
            return None
        if each.seq == after + 1:
            frames.append(each.operation_frame)
            after, ended = each.seq, each.ends
    return _News(b"".join(frames), after, ended)


def _in_log(operations: OperationStore, id: OperationId, after: int) -> _News[int]:
    try:
        record = operations.get(id)
    except UnknownOperation:
        lost = Event(operation=id, seq=after + 1, at=now(), phase=Phase.FAILED, failure=OperationLost().failure)
        return _News(EncodedEvent.of(lost).operation_frame, after + 1, ended=True)
    events = operations.events(id, after=after)
    if events and events[0].seq == after + 1:
        return _told(events)
    if not events and record.seq == after:
        return _News(b"", after, ended=record.state.ended)
    return _reset(record, events)


def _told(events: list[Event], before: bytes = b"") -> _News[int]:
    news = [EncodedEvent.of(event) for event in events]
    frames = before + b"".join(each.operation_frame for each in news)
    return _News(frames, news[-1].seq, news[-1].ends)


def _reset(record: Operation, events: list[Event]) -> _News[int]:
    """The record in place of what was trimmed; the end itself is told all the same."""
    told_up_to = record.seq - 1 if record.state.ended else record.seq
    frame = sse_frame("reset", record.model_dump_json(), id=str(told_up_to))
    rest = [event for event in events if event.seq > told_up_to]
    return _told(rest, frame) if rest else _News(frame, told_up_to, record.state.ended)


# Everybody's ------------------------------------------------------------------------------------------------------


def _on_line_of_all(heard: list[EncodedEvent], after: str) -> _News[str]:
    new = [each for each in heard if _order(each.entry) > _order(after)]
    return _News(b"".join(each.common_frame for each in new), new[-1].entry if new else after)


def _in_log_of_all(operations: OperationStore, after: str) -> _News[str]:
    events = operations.all_events(after)
    if events is None:
        place = operations.last_event_id()
        return _News(sse_frame("reset", "{}", id=place), place)
    news = [EncodedEvent.of(event, entry=place) for place, event in events]
    return _News(b"".join(each.common_frame for each in news), news[-1].entry if news else after)


def _order(place: str) -> tuple[int, int]:
    ms, _, count = place.partition("-")
    return int(ms), int(count)
