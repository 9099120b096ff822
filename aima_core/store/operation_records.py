"""Records of operations for Redis: a hash of texts, an entry in the index, the JSON of each event, and whole batches.

What operations of a batch share is passed once: one request may enqueue a thousand.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

from pydantic_core import from_json

from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Event, Kind, Operation, Phase
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.queue.notifier import encode_message, queue_of
from aima_core.redis import keys
from aima_core.redis.scripts import Call, in_ms
from aima_core.store.services import status_json

BATCH_SIZE = 50
"""Operations in one call of the script, which blocks Redis."""
_OWN = {"id", "fence", "seq", "attempt", "route", "routes"}
_ID, _INSTANCE = "<id>", "<instance>"
"""Placeholders for the ids in the texts that operations share."""
_WHERE = [keys.COMMON_LOG, keys.OPERATIONS, keys.ACTIVE, keys.WAITING, keys.FENCE, keys.INSTANCES]
_JSON_FIELDS = ("progress", "failure", "needs", "routes")


@dataclass(frozen=True)
class QueuedOperation:
    """An operation to enqueue; Redis assigns its fence."""

    operation: Operation
    command: str
    """As JSON."""
    signature: str
    waits: bool = False
    """Its queue has no consumer: the first feasible host may claim it."""

    @property
    def instance(self) -> Instance | None:
        """The instance with its new desired state; None if the operation may run on several hosts."""
        operation, host = self.operation, self.operation.route.host
        if operation.service is None or host is None:
            return None
        starts = operation.kind is Kind.START
        return Instance(
            id=operation.service.on(host),
            desired=Desired.RUNNING if starts else Desired.STOPPED,
            fence=operation.fence,
            state=InstanceState.STARTING if starts else InstanceState.STOPPING,
            engine=operation.engine,
            operation=operation.id,
            since=operation.created_at,
        )


def enqueue_calls(orders: Sequence[QueuedOperation]) -> Iterator[Call]:
    """The calls of `operations/enqueue`, in the order of the operations."""
    prefixes = (keys.operation, keys.log, keys.PREFIX, keys.instance, keys.instances_on)
    limits = (keys.LOG_CAP, keys.COMMON_LOG_CAP, in_ms(keys.LOOK_AFTER))
    for start in range(0, len(orders), BATCH_SIZE):
        groups = [_group(list(alike)) for _, alike in groupby(orders[start : start + BATCH_SIZE], _shared)]
        yield _WHERE, [*prefixes, keys.EVENTS, *limits, json.dumps(groups)]


def _shared(order: QueuedOperation) -> tuple[object, ...]:
    """Operations with the same key differ only in ids, routes and signatures."""
    it = order.operation
    subject = (it.kind, it.service, it.engine, it.image, it.needs, it.reason, it.created_at)
    return order.command, order.waits, it.route.host is None, *subject


def _group(alike: Sequence[QueuedOperation]) -> dict[str, Any]:
    first, instance, operation = alike[0], alike[0].instance, alike[0].operation
    record = as_fields(operation.model_dump(mode="json", exclude=_OWN))
    queued = Event(operation=operation.id, at=operation.created_at, phase=Phase.QUEUED, message=operation.reason)
    group = {
        "command": first.command,
        "fields": list(chain.from_iterable(record.items())),
        "waits": first.waits,
        "age": age_of(operation),
        "event": event_text(queued).replace(operation.id, _ID),
        "each": [_own(order) for order in alike],
    }
    if instance:
        status = status_json(instance).replace(instance.id, _INSTANCE).replace(operation.id, _ID)
        group |= {"desired": instance.desired, "instance": status}
    return group


def _own(order: QueuedOperation) -> dict[str, str]:
    operation, queue, host = order.operation, queue_of(order.operation), order.operation.route.host
    own = {
        "id": operation.id,
        "route": operation.route,
        "routes": json.dumps(operation.routes),
        "queue": queue,
        "signature": order.signature,
        "message": encode_message(operation, queue),
    }
    return own | {"instance": operation.service.on(host), "host": host} if operation.service and host else own


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
            record[name] = from_json(record[name])
    return Operation.model_validate(record)


def age_of(operation: Operation) -> str:
    """The sort key before the id in the index of all operations."""
    return f"{int(operation.created_at.timestamp() * 1000):013d}"


def event_text(event: Event) -> str:
    """The JSON in logs and publications, which carry its number beside it."""
    return event.model_dump_json(exclude={"seq"}, exclude_defaults=True)


def event_from(text: str, seq: int) -> Event:
    """A recorded event with the number that Redis assigned."""
    return Event.model_validate_json(text).model_copy(update={"seq": seq})
