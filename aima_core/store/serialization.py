"""Serialization of operations for Redis: a hash of texts, an entry in the index, and the JSON of each event."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Event, Operation

_JSON_FIELDS = ("progress", "failure", "needs", "routes")


def as_fields(record: Mapping[str, Any]) -> dict[str, str]:
    """The fields of the hash: texts, and JSON for composite values."""
    return {
        name: json.dumps(value) if name in _JSON_FIELDS else str(value)
        for name, value in record.items()
        if value is not None and name not in ("id", "seq", "attempt")
    }


def operation_from(id: OperationId, fields: Mapping[str, str]) -> Operation:
    record: dict[str, Any] = {"id": id, **fields, "reason": fields.get("reason") or None}
    for name in _JSON_FIELDS:
        if name in record:
            record[name] = json.loads(record[name])
    return Operation.model_validate(record)


def entry(operation: Operation) -> str:
    """The entry in the index of all operations, which is in the order of age."""
    return f"{age_of(operation)} {operation.id}"


def age_of(operation: Operation) -> str:
    return f"{int(operation.created_at.timestamp() * 1000):013d}"


def event_text(event: Event) -> str:
    """The JSON in logs and publications, which carry its number beside it."""
    return event.model_dump_json(exclude={"seq"}, exclude_defaults=True)


def event_from(text: str, seq: int) -> Event:
    """A recorded event with the number that Redis assigned."""
    return Event.model_validate_json(text).model_copy(update={"seq": seq})


def in_ms(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1000)


def pairs(flat: Sequence[str]) -> dict[str, str]:
    """A hash as scripts return it: field, value, field, value, …"""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def comma_list(words: Iterable[str]) -> str:
    """With a comma on both sides of each word, so that a script can find one as text."""
    return f",{','.join(words)},"
