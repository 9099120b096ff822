"""Batches of operations to enqueue, as the arguments of the script that stores them and pushes their messages.

What operations of a batch share is passed once: one request may enqueue a thousand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

from aima_core.domain.operations import Event, Kind, Operation, Phase
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.queue.notifier import encode_message, queue_of
from aima_core.redis import keys
from aima_core.redis.scripts import Call
from aima_core.store.serialization import age_of, as_fields, event_text, in_ms
from aima_core.store.services import status_json


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


BATCH_SIZE = 50
"""Operations in one call of the script, which blocks Redis."""
_OWN = {"id", "fence", "seq", "attempt", "route", "routes"}
_ID, _INSTANCE = "<id>", "<instance>"
"""Placeholders for the ids in the texts that operations share."""
_WHERE = [keys.COMMON_LOG, keys.OPERATIONS, keys.ACTIVE, keys.WAITING, keys.FENCE, keys.INSTANCES]


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
    first, instance = alike[0], alike[0].instance
    record = as_fields(first.operation.model_dump(mode="json", exclude=_OWN))
    group = {
        "command": first.command,
        "fields": list(chain.from_iterable(record.items())),
        "waits": first.waits,
        "age": age_of(first.operation),
        "event": _queued_event(first.operation),
        "each": [_own(order) for order in alike],
    }
    if instance:
        status = status_json(instance).replace(instance.id, _INSTANCE).replace(first.operation.id, _ID)
        group |= {"desired": instance.desired, "instance": status}
    return group


def _queued_event(operation: Operation) -> str:
    queued = Event(operation=operation.id, at=operation.created_at, phase=Phase.QUEUED, message=operation.reason)
    return event_text(queued).replace(operation.id, _ID)


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
