"""Operations in Redis: made, claimed, moved on by events, cancelled, listed, followed.

A message on the queue is only a doorbell; what is here is the intent and the truth about its progress.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain

from aima_core.domain.ids import OperationId, Route
from aima_core.domain.operations import TRANSITIONS, Event, Operation, Phase, State
from aima_core.errors import OperationLost, UnknownOperation
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.redis.scripts import Scripts
from aima_core.store.enqueue import QueuedOperation, enqueue_calls
from aima_core.store.serialization import (
    as_fields,
    comma_list,
    entry,
    event_from,
    event_text,
    in_ms,
    operation_from,
    pairs,
)

_IN_RECORD = {"phase", "reason", "host", "endpoint", "progress", "failure", "started_at", "ended_at", "state"}
START_OF_LOG = "0-0"
_LOOK_AT = 2000
"""How many entries of the index one page may look at before it comes back with what it has."""


@dataclass(frozen=True)
class Overdue:
    """What nobody carries out, and is rung for again."""

    waiting: int
    """How many operations wait for room somewhere."""
    unattended: list[tuple[OperationId, str]]
    """With the queue that each is rung on."""
    unroutable: list[OperationId]
    """Which wait, for room or on their queue, and of which nobody has said why."""


@dataclass(frozen=True)
class Page:
    items: list[Operation]
    after: str | None
    """Where the next page begins; None when this is the last."""


class OperationStore:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis
        self._run = Scripts(redis)

    def enqueue(self, orders: Sequence[QueuedOperation]) -> list[Operation]:
        """Put down queued operations, each with its first event and its doorbell, in one round trip.

        Gives them as they are then. Again with the same ones changes nothing.
        """
        fences = chain.from_iterable(self._run.each("operations/enqueue", list(enqueue_calls(orders))))
        return [
            order.operation.model_copy(update={"fence": fence, "seq": 1})
            for order, fence in zip(orders, fences, strict=True)
        ]

    def get(self, id: OperationId) -> Operation:
        """Raises UnknownOperation."""
        fields = self._redis.hgetall(keys.operation(id))
        if not fields:
            raise UnknownOperation(operation=id)
        return operation_from(id, fields)

    def page(self, *, limit: int, after: str | None = None, having: Mapping[str, str] | None = None) -> Page:
        """The newest first, of those whose record has these values."""
        filters = [part for pair in (having or {}).items() for part in pair]
        found = self._run(
            "operations/list", [keys.OPERATIONS], keys.OPERATION_PREFIX, after or "", limit, _LOOK_AT, *filters
        )
        records = [
            operation_from(OperationId(id), pairs(flat)) for id, flat in zip(found[1::2], found[2::2], strict=True)
        ]
        return Page(items=records, after=found[0] or None)

    def active(self) -> list[OperationId]:
        """Those that have not ended, oldest first."""
        return [OperationId(id) for id in self._redis.zrange(keys.ACTIVE, 0, -1)]

    def list_active(self) -> list[Operation]:
        """The records of those that have not ended, oldest first."""
        ids = self.active()
        with self._redis.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.hgetall(keys.operation(id))
            found = [operation_from(id, fields) for id, fields in zip(ids, pipe.execute(), strict=True) if fields]
        return sorted(found, key=lambda operation: operation.created_at)

    def find_stalled(self, *, at_most: int = 50) -> Overdue:
        """What nobody carries out that somebody should; each is told to one asker only, and again after LOOK_AFTER."""
        where, prefixes = [keys.ACTIVE, keys.WAITING, keys.HOSTS_SEEN], (keys.OPERATION_PREFIX, keys.CLAIM_PREFIX)
        limits = (in_ms(keys.LOOK_AFTER), at_most, in_ms(keys.HOST_DEAD))
        waiting, unroutable, *found = self._run("operations/find_stalled", where, *limits, *prefixes, keys.PREFIX)
        pairs = zip(found[::2], found[1::2], strict=True)
        unattended = [(OperationId(id), queue) for id, queue in pairs]
        return Overdue(waiting=waiting, unattended=unattended, unroutable=[OperationId(id) for id in unroutable])

    def list_pending(self, *, at_most: int = 200) -> list[Operation]:
        """Those that wait for room, oldest first."""
        found = self._run("operations/list_pending", [keys.WAITING], at_most, keys.OPERATION_PREFIX)
        return [operation_from(OperationId(id), pairs(flat)) for id, flat in zip(found[::2], found[1::2], strict=True)]

    def find_unroutable(self, heard: Collection[Route], *, after: timedelta, at_most: int = 500) -> list[Operation]:
        """What is queued, and nobody has listened for since `after`; `heard` are the routes listened to now."""
        told = (keys.OPERATION_PREFIX, in_ms(after), at_most, in_ms(keys.HEARD_FOR), json.dumps(list(heard)))
        found = self._run("operations/find_unroutable", [keys.ACTIVE, keys.ROUTES], *told)
        return [operation_from(OperationId(id), pairs(flat)) for id, flat in zip(found[::2], found[1::2], strict=True)]

    def append_event(self, event: Event, *, attempt: int | None = None) -> int:
        """Append the event, publish it and change the record as it says, in one step.

        Gives the event's number; 0 when the operation has ended, is lost, or belongs to a later attempt by now:
        then nothing was written.
        """
        return int(self._run("operations/append_event", _places(event.operation), *_recording(event, attempt)))

    def record_lost(self, operation: Operation, *, seen: int = 0) -> bool:
        """Tell the end of an operation that Redis has lost; False when there is a record of it all the same.

        `seen` is the number of the last event that was told of it, as far as the caller knows.
        """
        id, seq, failure = operation.id, seen + 1, OperationLost().failure
        event = Event(operation=id, at=now(), phase=Phase.FAILED, host=operation.host, failure=failure)
        where = [keys.operation(id), keys.log(id), keys.COMMON_LOG, keys.OPERATIONS]
        known = operation.model_copy(update={"reason": None, "progress": None})
        record = as_fields(known.model_dump(mode="json")) | _changes(event)
        lost = (id, entry(operation), seq, event_text(event))
        fields = chain.from_iterable(record.items())
        return bool(self._run("operations/record_lost", where, *lost, *_PUBLISHING, *fields))

    def request_cancel(self, id: OperationId) -> bool:
        """Mark it for cancelling. True when nobody holds it: the caller is to end it then.

        Raises UnknownOperation.
        """
        answer = self._run("operations/request_cancel", [keys.operation(id), keys.claim(id)])
        if answer == "lost":
            raise UnknownOperation(operation=id)
        return str(answer) == "free"

    def events(self, id: OperationId, *, after: int = 0) -> list[Event]:
        """Those with a higher number, in order; the first may be higher than `after + 1` where the log was trimmed."""
        entries = self._redis.xrange(keys.log(id), min=f"({after}-0")
        return [event_from(fields["event"], int(place.split("-")[0])) for place, fields in entries]

    def last_event_id(self) -> str:
        """Where everybody's log ends just now."""
        newest = self._redis.xrevrange(keys.COMMON_LOG, count=1)
        return newest[0][0] if newest else START_OF_LOG

    def all_events(self, after: str) -> list[tuple[str, Event]] | None:
        """All operations' events beyond a place of everybody's log; None where the log was trimmed beyond it."""
        entries = self._redis.xrange(keys.COMMON_LOG, min=after)
        if after != START_OF_LOG:
            if not entries or entries[0][0] != after:
                return None
            del entries[0]
        return [(place, event_from(fields["event"], int(fields["seq"]))) for place, fields in entries]


def _places(id: OperationId) -> list[str]:
    return [keys.operation(id), keys.log(id), keys.COMMON_LOG, keys.ACTIVE, keys.WAITING]


def _recording(event: Event, attempt: int | None) -> Iterator[str | int]:
    state = event.phase.state
    yield from ("" if attempt is None else str(attempt), _MAY_BECOME[state], "1" if state.ended else "0")
    yield from (event.operation, event_text(event), *_PUBLISHING)
    yield from chain.from_iterable(_changes(event).items())


def _changes(event: Event) -> dict[str, str]:
    said = event.model_dump(mode="json", include=_IN_RECORD, exclude_none=True)
    said["state"] = str(event.phase.state)
    if event.message or not (event.progress or event.lines):  # what was said of the phase before holds no more
        said["reason"] = event.message or ""
    if event.phase.state.ended:
        said["ended_at"] = event.at.isoformat()
    return as_fields(said)


_PUBLISHING = (keys.EVENTS, keys.LOG_CAP, keys.COMMON_LOG_CAP, int(keys.ENDED_TTL.total_seconds()))
_MAY_BECOME = {
    state: comma_list(source for source, targets in TRANSITIONS.items() if state in targets) for state in State
}
"""The states from which an operation may come to each."""


def now() -> datetime:
    """The clock of records and events; leases and heartbeats go by Redis' own."""
    return datetime.now().astimezone()
