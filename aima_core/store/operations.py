"""Operations in Redis: enqueued, updated by events, cancelled, listed and followed.

The record is the truth, a message on the queue only a notification: a lost, late or duplicate message changes nothing.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain, groupby
from typing import Any, NamedTuple

import structlog

from aima_core.domain.ids import OperationId, Route
from aima_core.domain.operations import TRANSITIONS, Event, Operation, Phase, State
from aima_core.errors import CorruptData, OperationLost, UnknownOperation
from aima_core.queue.notifier import queue_of
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.redis.scripts import Scripts, comma_list, in_ms, pairs
from aima_core.store.operation_records import (
    QueuedOperation,
    age_of,
    as_fields,
    as_stored,
    enqueue_calls,
    event_from,
    event_text,
    operation_from,
)
from aima_core.store.readable import UNREADABLE, readable, reason_of, replies
from aima_core.trust.orders import clock_ms, highest_fence

_log = structlog.get_logger()
_IN_RECORD = {"phase", "reason", "host", "endpoint", "progress", "fetch", "collection", "failure"} | {
    "started_at",
    "ended_at",
    "state",
}
RECORDS_AT_ONCE = 500
"""Records whose raw fields are held in memory while they are parsed."""
START_OF_LOG = "0-0"
_CHUNK = 500
"""Messages that a script reads at once."""
_MOST_SCANNED = 2000
"""Index entries that one page may scan before it returns what it has found."""


class Stalled(NamedTuple):
    """Operations that no worker executes."""

    waiting: int
    """The number of operations pending for capacity."""
    undelivered: list[tuple[OperationId, str]]
    """Those without a message, with the queue to redeliver on."""
    without_reason: list[OperationId]
    """Those pending, for capacity or on their queue, without a recorded reason."""


class Overdue(NamedTuple):
    """Queued operations that end without a worker."""

    unroutable: list[Operation]
    """Those whose routes had no live consumer for long enough."""
    expired: list[Operation]
    """Unclaimed when their order expired."""


class Page(NamedTuple):
    items: list[Operation]
    after: str | None
    """The entry after which the next page starts; None on the last page."""


class OperationStore:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis
        self._run = Scripts(redis)

    def reserve_fences(self, count: int) -> int:
        """The first of so many consecutive fencing tokens, in milliseconds of this node's clock or above."""
        first, discarded = self._run("operations/reserve_fences", [keys.FENCE], clock_ms(), highest_fence(), count)
        if discarded:
            _log.warning("last fence discarded", reason="it was forged, or reserved by an API node with a wrong clock")
        return int(first)

    def enqueue(self, queued: Iterable[QueuedOperation]) -> list[Operation]:
        """Stores operations, each with its first event and its message; idempotent.

        They are taken from the iterable, and so signed, while Redis stores those before. Returns them `as_stored`.
        """
        taken: list[QueuedOperation] = []

        def take() -> Iterator[QueuedOperation]:
            for each in queued:
                taken.append(each)
                yield each

        late = pairs(list(chain.from_iterable(self._run.each("operations/enqueue", enqueue_calls(take())))))
        joined = {other: self.get(OperationId(other)) for other in set(late.values()) if " " not in other}
        return [as_stored(each.operation, late.get(each.operation.id), joined) for each in taken]

    def get(self, id: OperationId) -> Operation:
        """Raises UnknownOperation, CorruptData."""
        fields = self._redis.hgetall(keys.operation(id))
        if not fields:
            raise UnknownOperation(operation=id)
        try:
            return operation_from(id, fields)
        except UNREADABLE as wrong:
            raise CorruptData(detail=f"the record of operation {id}: {reason_of(wrong)}.") from wrong

    def page(self, *, limit: int, after: str | None = None, having: Mapping[str, str] | None = None) -> Page:
        """The newest first, of those whose record has these values."""
        scan = (keys.operation, after or "", limit, _MOST_SCANNED)
        filters = chain.from_iterable((having or {}).items())
        next_after, *found = self._run("operations/list", [keys.OPERATIONS], *scan, *filters)
        return Page(items=_records(found), after=next_after or None)

    def active(self) -> list[OperationId]:
        """The ids of active operations, oldest first."""
        return _ids(self._redis.zrange(keys.ACTIVE, 0, -1))

    def list_active(self) -> list[Operation]:
        """The records of active operations, oldest first."""
        ids = self.active()
        chunks = (ids[at : at + RECORDS_AT_ONCE] for at in range(0, len(ids), RECORDS_AT_ONCE))
        found = chain.from_iterable(map(self._stored, chunks))
        return sorted(found, key=lambda operation: operation.created_at)

    def _stored(self, ids: Sequence[OperationId]) -> list[Operation]:
        with self._redis.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.hgetall(keys.operation(id))
            found = zip(ids, replies(pipe), strict=True)
        records = (readable("operation", id, operation_from, id, fields) for id, fields in found if fields)
        return [each for each in records if each]

    def find_stalled(self, *, at_most: int = 50) -> Stalled:
        """Each operation is returned to one caller only, and again after LOOK_AFTER."""
        where, prefixes = [keys.ACTIVE, keys.WAITING, keys.HOSTS_SEEN], (keys.operation, keys.claim)
        limits = (in_ms(keys.LOOK_AFTER), at_most, in_ms(keys.HOST_DEAD), in_ms(keys.CLAIM_TTL))
        waiting, pending, *found = self._run("operations/find_stalled", where, *limits, *prefixes, keys.PREFIX)
        queues = dict(zip(found[::2], found[1::2], strict=True))
        return Stalled(waiting, [(id, queues[id]) for id in _ids(queues)], without_reason=_ids(pending))

    def list_pending(self, *, at_most: int = 200) -> list[Operation]:
        """Operations pending for capacity: by priority, then the oldest first."""
        found = self._run("operations/list_pending", [keys.WAITING], at_most, keys.operation)
        return sorted(_records(found), key=lambda operation: -operation.priority)

    def find_overdue(self, live: Collection[Route], *, after: timedelta, at_most: int = 500) -> Overdue:
        """`live` are the routes that have a live consumer."""
        limits = (in_ms(keys.CLAIM_TTL), in_ms(after), at_most, in_ms(keys.HEARD_FOR), clock_ms())
        where, routes = [keys.ACTIVE, keys.ROUTES], json.dumps(list(live))
        return Overdue(
            *map(_records, self._run("operations/find_overdue", where, keys.operation, keys.claim, *limits, routes))
        )

    def append_event(self, event: Event, *, attempt: int | None = None) -> int:
        """Appends and publishes an event and updates the record, in one step.

        Returns the event's number, or 0, with nothing written, if the operation has ended, is lost, or was taken over
        by a later attempt. A retry of the same event after a lost reply returns its number again.
        """
        id = event.operation
        where = [keys.operation(id), keys.log(id), keys.COMMON_LOG, keys.ACTIVE, keys.WAITING]
        return int(self._run("operations/append_event", where, *_recording(event, attempt)))

    def withdraw(self, ended: Iterable[Operation]) -> int:
        """Removes the messages of ended operations from queues that no live host consumes; returns their number."""
        limits, removed = (in_ms(keys.HOST_DEAD), _CHUNK), 0
        for (queue, route), those in groupby(sorted(ended, key=_queue_and_route), _queue_and_route):
            ids = [operation.id for operation in those]
            removed += int(self._run("operations/withdraw", [keys.queue(queue), keys.ROUTES], route, *limits, *ids))
        return removed

    def count_pending(self, routes: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
        """The operations pending for capacity by route, and the messages on the queues of these routes."""
        where = (keys.operation, keys.PREFIX, _MOST_SCANNED)
        pending, lengths = self._run("operations/count_pending", [keys.WAITING], *where, *routes)
        return dict(zip(pending[::2], pending[1::2], strict=True)), dict(zip(routes, lengths, strict=True))

    def end_unreadable(self, id: OperationId, why: str) -> None:
        """Records the end of an operation whose record no worker can read, whatever its state says.

        Otherwise it would be redelivered for ever.
        """
        failure = CorruptData(detail=f"the record of operation {id}: {why}.").failure
        event = Event(operation=id, at=now(), phase=Phase.FAILED, failure=failure)
        where = [keys.operation(id), keys.log(id), keys.COMMON_LOG, keys.ACTIVE, keys.WAITING]
        attempt, _, *recording = _recording(event, None)
        self._run("operations/append_event", where, attempt, "", *recording)

    def record_lost(self, operation: Operation, *, seen: int = 0) -> bool:
        """Records the end of an operation that Redis has lost; False if there is a record.

        `seen` is the number of its last event, as far as the caller knows.
        """
        failure = OperationLost().failure
        event = Event(operation=operation.id, at=now(), phase=Phase.FAILED, host=operation.host, failure=failure)
        return self.record_ended(operation, event, seen=seen)

    def record_ended(self, operation: Operation, event: Event, *, seen: int = 0) -> bool:
        """Records an operation of which Redis knows nothing, with its last event; False if there is a record."""
        id, seq = operation.id, seen + 1
        where = [keys.operation(id), keys.log(id), keys.COMMON_LOG, keys.OPERATIONS]
        known = operation.model_copy(update={"reason": None, "progress": None})
        record = as_fields(known.model_dump(mode="json")) | _changes(event)
        lost = (id, f"{age_of(operation)} {id}", seq, event_text(event))
        fields = chain.from_iterable(record.items())
        return bool(self._run("operations/record_lost", where, *lost, *_PUBLISHING, *fields))

    def request_cancel(self, id: OperationId, *, superseded_by: OperationId | None = None) -> bool:
        """Requests a cancel. True if no worker has claimed it: then the caller must end it. Raises UnknownOperation."""
        where, by = [keys.operation(id), keys.claim(id)], superseded_by or ""
        status = self._run("operations/request_cancel", where, in_ms(keys.CLAIM_TTL), by)
        if status == "lost":
            raise UnknownOperation(operation=id)
        return str(status) == "free"

    def states(self, ids: Sequence[OperationId]) -> list[State | None]:
        """The state of each; None for one without a readable record."""
        with self._redis.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.hget(keys.operation(id), "state")
            found = replies(pipe)
        return [State(state) if state in list(State) else None for state in found]

    def superseded_by(self, id: OperationId) -> str | None:
        """The operation for which its cancel was requested; None if by a person."""
        return self._redis.hget(keys.operation(id), "superseded_by")

    def events(self, id: OperationId, *, after: int = 0) -> list[Event]:
        """Those with a higher number, in order; the first exceeds `after + 1` if the log was trimmed."""
        entries = self._redis.xrange(keys.log(id), min=f"({after}-0")
        found = (readable("event", entry, _event, fields, entry.split("-")[0]) for entry, fields in entries)
        return [event for event in found if event]

    def last_event_id(self) -> str:
        """The end of the common log."""
        newest = self._redis.xrevrange(keys.COMMON_LOG, count=1)
        return newest[0][0] if newest else START_OF_LOG

    def recent_events(self, number: int) -> list[tuple[str, Event]]:
        """The last entries of the common log, in order."""
        return _events_of(reversed(self._redis.xrevrange(keys.COMMON_LOG, count=number)))

    def all_events(self, after: str) -> list[tuple[str, Event]] | None:
        """The events of all operations after an entry of the common log; None if the log was trimmed beyond it."""
        entries = self._redis.xrange(keys.COMMON_LOG, min=after)
        if after != START_OF_LOG:
            if not entries or entries[0][0] != after:
                return None
            del entries[0]
        return _events_of(entries)


def _events_of(entries: Iterable[tuple[str, Mapping[str, str]]]) -> list[tuple[str, Event]]:
    """Entries of the common log, without unreadable ones."""
    found = ((entry, readable("event", entry, _event, fields, fields.get("seq"))) for entry, fields in entries)
    return [(entry, event) for entry, event in found if event]


def _records(flat: Sequence[Any]) -> list[Operation]:
    """Operations as scripts return them: id, record, id, record, …; without unreadable ones."""
    found = (readable("operation", id, _record, id, record) for id, record in zip(flat[::2], flat[1::2], strict=True))
    return [operation for operation in found if operation]


def _record(id: str, record: Sequence[str]) -> Operation:
    return operation_from(OperationId(id), pairs(record))


def _event(fields: Mapping[str, str], seq: str) -> Event:
    return event_from(fields["event"], int(seq))


def _queue_and_route(operation: Operation) -> tuple[str, str]:
    return queue_of(operation), str(operation.route)


def _ids(texts: Iterable[str]) -> list[OperationId]:
    """Without malformed ones."""
    found = (readable("operation", text, OperationId, text) for text in texts)
    return [id for id in found if id]


def _recording(event: Event, attempt: int | None) -> Iterator[str | int]:
    state = event.phase.state
    yield from ("" if attempt is None else str(attempt), _SOURCES[state], "1" if state.ended else "0")
    yield keys.starts
    yield from (event.operation, event_text(event), *_PUBLISHING)
    yield from chain.from_iterable(_changes(event).items())


def _changes(event: Event) -> dict[str, str]:
    changes = event.model_dump(mode="json", include=_IN_RECORD, exclude_none=True)
    changes["state"] = str(event.phase.state)
    if event.message or not (
        event.progress or event.fetch or event.lines
    ):  # a new phase makes the reason of the last one stale
        changes["reason"] = event.message or ""
    if event.phase.state.ended:
        changes["ended_at"] = event.at.isoformat()
    return as_fields(changes)


_PUBLISHING = (keys.EVENTS, keys.LOG_CAP, keys.COMMON_LOG_CAP, int(keys.ENDED_TTL.total_seconds()))
_SOURCES = {state: comma_list(source for source, targets in TRANSITIONS.items() if state in targets) for state in State}
"""The states from which each state may be entered."""


def now() -> datetime:
    """The clock of records and events; leases and heartbeats use Redis' own."""
    return datetime.now().astimezone()
