"""Operations in Redis: made, claimed, moved on by events, cancelled, listed, followed.

A message on the queue is only a doorbell; what is here is the intent and the truth about its progress.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from aima_core import keys
from aima_core.failures import UnknownOperation
from aima_core.ids import HostName, OperationId
from aima_core.operations import COMMAND, TRANSITIONS, Command, Event, Operation, State
from aima_core.scripts import Scripts
from aima_core.text_redis import TextRedis

_IN_RECORD = {"phase", "reason", "host", "endpoint", "progress", "failure", "started_at", "ended_at", "state"}
_JSON_FIELDS = ("progress", "failure")
START_OF_LOG = "0-0"
_LOOK_AT = 2000
"""How many entries of the index one page may look at before it comes back with what it has."""


@dataclass(frozen=True)
class Claimed:
    """The caller, and nobody else, carries the operation out while it renews the claim."""

    attempt: int
    record: Operation
    command_text: str
    signature: str

    @property
    def command(self) -> Command:
        return COMMAND.validate_json(self.command_text)


@dataclass(frozen=True)
class Skipped:
    """Nothing is to be done: a doubled or late message."""

    why: str
    to_be_ended: bool = False
    """It was cancelled, and nobody has told its end yet."""


class Standing(StrEnum):
    """How a claim stands when it is renewed."""

    GO_ON = "go on"
    CANCEL = "cancel"
    """Somebody has asked for its end."""
    LOST = "lost"
    """Another attempt has begun; this one must fall silent."""


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

    def next_fence(self) -> int:
        """Higher than any given out before."""
        return int(self._redis.incr(keys.FENCE))

    def create(self, operation: Operation, command: str, signature: str) -> None:
        """Put down a queued operation with the JSON of its signed command."""
        record = {**_fields(operation.model_dump(mode="json")), "command": command, "signature": signature}
        age = int(operation.created_at.timestamp() * 1000)
        with self._redis.pipeline() as pipe:
            pipe.hset(keys.operation(operation.id), mapping=record)
            pipe.zadd(keys.OPERATIONS, {f"{age:013d} {operation.id}": 0})
            pipe.zadd(keys.ACTIVE, {operation.id: age})
            pipe.execute()

    def get(self, id: OperationId) -> Operation:
        """Raises UnknownOperation."""
        fields = self._redis.hgetall(keys.operation(id))
        if not fields:
            raise UnknownOperation(operation=id)
        return _operation(id, fields)

    def page(self, *, limit: int, after: str | None = None, having: Mapping[str, str] | None = None) -> Page:
        """The newest first, of those whose record has these values."""
        filters = [part for pair in (having or {}).items() for part in pair]
        found = self._run(
            "page", [keys.OPERATIONS], keys.OPERATION_PREFIX, "down", after or "", limit, _LOOK_AT, *filters
        )
        records = [_operation(OperationId(id), _pairs(flat)) for id, flat in zip(found[1::2], found[2::2], strict=True)]
        return Page(items=records, after=found[0] or None)

    def active(self) -> list[OperationId]:
        """Those that have not ended, oldest first."""
        return [OperationId(id) for id in self._redis.zrange(keys.ACTIVE, 0, -1)]

    def unended(self) -> list[Operation]:
        """The records of those that have not ended, oldest first."""
        ids = self.active()
        with self._redis.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.hgetall(keys.operation(id))
            return [_operation(id, fields) for id, fields in zip(ids, pipe.execute(), strict=True) if fields]

    def claim(self, id: OperationId, host: HostName) -> Claimed | Skipped:
        """Take it on for CLAIM_TTL, unless it has ended or another holds it."""
        unended = _listed(state for state in State if not state.ended)
        where = [keys.operation(id), keys.claim(id)]
        taken, what = self._run("claim", where, host, _ms(keys.CLAIM_TTL), unended, now().isoformat())
        if not taken:
            return Skipped(str(what), to_be_ended=what == "cancelled")
        fields = _pairs(what)
        return Claimed(int(fields["attempt"]), _operation(id, fields), fields["command"], fields["signature"])

    def renew(self, id: OperationId, host: HostName, attempt: int) -> Standing:
        """Hold a claim for another CLAIM_TTL and learn how it stands."""
        where = [keys.operation(id), keys.claim(id)]
        return Standing(self._run("renew", where, str(attempt), host, _ms(keys.CLAIM_TTL)))

    def let_go(self, id: OperationId) -> None:
        """End a claim, so that another may take it on at once."""
        self._redis.delete(keys.claim(id))

    def record(self, event: Event, *, attempt: int | None = None) -> int:
        """Append the event, publish it and change the record as it says, in one step.

        Gives the event's number; 0 when the operation has ended, is lost, or belongs to a later attempt by now:
        then nothing was written.
        """
        return int(self._run("record", _places(event.operation), *_recording(event, attempt)))

    def ask_to_cancel(self, id: OperationId) -> bool:
        """Mark it for cancelling. True when nobody holds it: the caller is to end it then.

        Raises UnknownOperation.
        """
        answer = self._run("cancel", [keys.operation(id), keys.claim(id)])
        if answer == "lost":
            raise UnknownOperation(operation=id)
        return str(answer) == "free"

    def events(self, id: OperationId, *, after: int = 0) -> list[Event]:
        """Those with a higher number, in order; the first may be higher than `after + 1` where the log was trimmed."""
        entries = self._redis.xrange(keys.log(id), min=f"({after}-0")
        return [event_from(fields["event"], int(place.split("-")[0])) for place, fields in entries]

    def last_place(self) -> str:
        """Where everybody's log ends just now."""
        newest = self._redis.xrevrange(keys.COMMON_LOG, count=1)
        return newest[0][0] if newest else START_OF_LOG

    def everybodys_events(self, after: str) -> list[tuple[str, Event]] | None:
        """All operations' events beyond a place of everybody's log; None where the log was trimmed beyond it."""
        entries = self._redis.xrange(keys.COMMON_LOG, min=after)
        if after != START_OF_LOG:
            if not entries or entries[0][0] != after:
                return None
            del entries[0]
        return [(place, event_from(fields["event"], int(fields["seq"]))) for place, fields in entries]


def event_from(text: str, seq: int) -> Event:
    """An event as it was recorded, with the number Redis gave it."""
    return Event.model_validate_json(text).model_copy(update={"seq": seq})


def _places(id: OperationId) -> list[str]:
    return [keys.operation(id), keys.log(id), keys.COMMON_LOG, keys.ACTIVE]


def _recording(event: Event, attempt: int | None) -> Iterator[str | int]:
    state = event.phase.state
    yield "" if attempt is None else str(attempt)
    yield _listed(source for source, targets in TRANSITIONS.items() if state in targets)
    yield "1" if state.ended else "0"
    yield event.operation
    yield event.model_dump_json(exclude={"seq"}, exclude_defaults=True)
    yield keys.EVENTS
    yield keys.LOG_CAP
    yield keys.COMMON_LOG_CAP
    yield int(keys.ENDED_TTL.total_seconds())
    for name, value in _changes(event).items():
        yield name
        yield value


def _changes(event: Event) -> dict[str, str]:
    said = event.model_dump(mode="json", include=_IN_RECORD, exclude_none=True)
    said["state"] = str(event.phase.state)
    if event.message or not (event.progress or event.lines):  # what was said of the phase before holds no more
        said["reason"] = event.message or ""
    if event.phase.state.ended:
        said["ended_at"] = event.at.isoformat()
    return _fields(said)


def _fields(record: Mapping[str, Any]) -> dict[str, str]:
    """As a hash holds them: texts, and JSON where a field has parts."""
    return {
        name: json.dumps(value) if name in _JSON_FIELDS else str(value)
        for name, value in record.items()
        if value is not None and name not in ("id", "seq", "attempt")
    }


def _operation(id: OperationId, fields: Mapping[str, str]) -> Operation:
    record: dict[str, Any] = {"id": id, **fields, "reason": fields.get("reason") or None}
    for name in _JSON_FIELDS:
        if name in record:
            record[name] = json.loads(record[name])
    return Operation.model_validate(record)


def _pairs(flat: list[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _listed(states: Iterator[State]) -> str:
    """With a comma on both sides of each, so that the script can look one up as text."""
    return f",{','.join(states)},"


def _ms(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1000)


def now() -> datetime:
    """The clock of records and events; leases and heartbeats go by Redis' own."""
    return datetime.now().astimezone()
