"""From orders to what the script is given that puts them down: what many of them share is said once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain, groupby

from aima_core import keys
from aima_core.operation_record import age_of, as_fields, event_text, in_ms
from aima_core.operations import Event, Operation, Phase
from aima_core.orders import Order
from aima_core.queue import envelope, queue_of
from aima_core.scripts import Call
from aima_core.service_store import observed

AT_ONCE = 50
"""Orders in one call of the script; Redis does nothing else meanwhile."""
_OWN = {"id", "fence", "seq", "attempt", "route", "routes"}
_ID, _INSTANCE = "<id>", "<instance>"
"""Stand for the ids in the texts that orders share: a request may be for a thousand of them."""
_WHERE = [keys.COMMON_LOG, keys.OPERATIONS, keys.ACTIVE, keys.WAITING, keys.FENCE, keys.INSTANCES]


def calls(orders: Sequence[Order]) -> Iterator[Call]:
    """Of the script that puts operations down, in the order of the orders."""
    for _, group in groupby(orders, _shared):
        alike = list(group)
        for start in range(0, len(alike), AT_ONCE):
            yield _call(alike[start : start + AT_ONCE])


def _shared(order: Order) -> tuple[object, ...]:
    """Orders with the same differ in nothing but ids, routes and signatures."""
    asked = order.operation
    what = (asked.kind, asked.service, asked.engine, asked.image, asked.needs, asked.reason, asked.created_at)
    return order.command, order.waits, asked.route.host is None, *what


def _call(alike: Sequence[Order]) -> Call:
    first, wanted = alike[0], alike[0].wants
    prefixes = (keys.OPERATION_PREFIX, keys.LOG_PREFIX, keys.PREFIX, keys.INSTANCE_PREFIX, keys.INSTANCES_ON_PREFIX)
    limits = (keys.LOG_CAP, keys.COMMON_LOG_CAP, in_ms(keys.LOOK_AFTER))
    record = as_fields(first.operation.model_dump(mode="json", exclude=_OWN))
    shared = (first.command, json.dumps(list(chain.from_iterable(record.items()))), "1" if first.waits else "")
    desired, instance = (wanted.desired, observed(wanted).replace(wanted.id, _INSTANCE)) if wanted else ("", "")
    texts = (age_of(first.operation), _queued(first.operation), desired, instance.replace(first.operation.id, _ID))
    return _WHERE, [*prefixes, keys.EVENTS, *limits, *shared, *texts, json.dumps([_own(order) for order in alike])]


def _queued(operation: Operation) -> str:
    queued = Event(operation=operation.id, at=operation.created_at, phase=Phase.QUEUED, message=operation.reason)
    return event_text(queued).replace(operation.id, _ID)


def _own(order: Order) -> dict[str, str]:
    asked, queue, host = order.operation, queue_of(order.operation), order.operation.route.host
    own = {
        "id": asked.id,
        "route": asked.route,
        "routes": json.dumps(asked.routes),
        "queue": queue,
        "signature": order.signature,
        "message": envelope(asked, queue),
    }
    return own | {"instance": asked.service.on(host), "host": host} if asked.service and host else own
