"""Enqueuing operations: what an API node hands over, and the arguments of the script that stores it.

What many operations of a batch share is passed once.
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
from aima_core.store.services import observed


@dataclass(frozen=True)
class QueuedOperation:
    """An operation to be put on its queue; Redis gives it its fence."""

    operation: Operation
    command: str
    """The JSON of what is to be done."""
    signature: str
    waits: bool = False
    """Nobody listens to its queue: the first host that will do may take it."""

    @property
    def wants(self) -> Instance | None:
        """What it wants of its instance; None where it leads to no one host."""
        asked, host = self.operation, self.operation.route.host
        if asked.service is None or host is None:
            return None
        starts = asked.kind is Kind.START
        return Instance(
            id=asked.service.on(host),
            desired=Desired.RUNNING if starts else Desired.STOPPED,
            fence=asked.fence,
            state=InstanceState.STARTING if starts else InstanceState.STOPPING,
            engine=asked.engine,
            operation=asked.id,
            since=asked.created_at,
        )


AT_ONCE = 50
"""Orders in one call of the script; Redis does nothing else meanwhile."""
_OWN = {"id", "fence", "seq", "attempt", "route", "routes"}
_ID, _INSTANCE = "<id>", "<instance>"
"""Stand for the ids in the texts that orders share: a request may be for a thousand of them."""
_WHERE = [keys.COMMON_LOG, keys.OPERATIONS, keys.ACTIVE, keys.WAITING, keys.FENCE, keys.INSTANCES]


def enqueue_calls(orders: Sequence[QueuedOperation]) -> Iterator[Call]:
    """Of the script that puts operations down, in the order of the orders."""
    prefixes = (keys.OPERATION_PREFIX, keys.LOG_PREFIX, keys.PREFIX, keys.INSTANCE_PREFIX, keys.INSTANCES_ON_PREFIX)
    limits = (keys.LOG_CAP, keys.COMMON_LOG_CAP, in_ms(keys.LOOK_AFTER))
    for start in range(0, len(orders), AT_ONCE):
        alike = groupby(orders[start : start + AT_ONCE], _shared)
        groups = [_group(list(group)) for _, group in alike]
        yield _WHERE, [*prefixes, keys.EVENTS, *limits, json.dumps(groups)]


def _shared(order: QueuedOperation) -> tuple[object, ...]:
    """Orders with the same differ in nothing but ids, routes and signatures."""
    asked = order.operation
    what = (asked.kind, asked.service, asked.engine, asked.image, asked.needs, asked.reason, asked.created_at)
    return order.command, order.waits, asked.route.host is None, *what


def _group(alike: Sequence[QueuedOperation]) -> dict[str, Any]:
    first, wanted = alike[0], alike[0].wants
    record = as_fields(first.operation.model_dump(mode="json", exclude=_OWN))
    group = {
        "command": first.command,
        "fields": list(chain.from_iterable(record.items())),
        "waits": first.waits,
        "age": age_of(first.operation),
        "event": _queued(first.operation),
        "each": [_own(order) for order in alike],
    }
    if wanted:
        record_of_instance = observed(wanted).replace(wanted.id, _INSTANCE).replace(first.operation.id, _ID)
        group |= {"desired": wanted.desired, "instance": record_of_instance}
    return group


def _queued(operation: Operation) -> str:
    queued = Event(operation=operation.id, at=operation.created_at, phase=Phase.QUEUED, message=operation.reason)
    return event_text(queued).replace(operation.id, _ID)


def _own(order: QueuedOperation) -> dict[str, str]:
    asked, queue, host = order.operation, queue_of(order.operation), order.operation.route.host
    own = {
        "id": asked.id,
        "route": asked.route,
        "routes": json.dumps(asked.routes),
        "queue": queue,
        "signature": order.signature,
        "message": encode_message(asked, queue),
    }
    return own | {"instance": asked.service.on(host), "host": host} if asked.service and host else own
