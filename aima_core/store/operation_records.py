"""Records of operations for Redis: a hash of texts, an entry in the index, the JSON of each event, and whole batches.

What operations of a batch share is passed once: one request may enqueue a thousand.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import Any

from pydantic_core import from_json

from aima_core.domain.ids import HostName, OperationId, Route
from aima_core.domain.operations import Event, Kind, Operation, Phase, State
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.errors import Superseded
from aima_core.queue.notifier import message_template, message_values, queue_of
from aima_core.redis import keys
from aima_core.redis.scripts import Call, in_ms
from aima_core.trust.orders import SignedOrder, highest_fence
from aima_core.trust.records import SignedService

BATCH_SIZE = 50
"""Operations in one call of the script, which blocks Redis; those of one service are never split."""
_OWN = {"id", "fence", "seq", "attempt", "route", "routes"}
_OF_THE_END = {"state", "phase", "reason", "failure", "ended_at"}
_WHERE = [keys.COMMON_LOG, keys.OPERATIONS, keys.ACTIVE, keys.WAITING, keys.INSTANCES]
_JSON_FIELDS = ("progress", "fetch", "collection", "failure", "needs", "routes")


@dataclass(frozen=True)
class QueuedOperation:
    """An operation to enqueue, under the fence that its order names."""

    operation: Operation
    command: str
    """As JSON."""
    order: SignedOrder
    waits: bool = False
    """Its queue has no consumer: the first feasible host may claim it."""
    asks_for: str = ""
    """The digest of a start's request: it joins an active start with the same digest."""
    alone: bool = False
    """Its service has one instance only, wherever that is."""
    together: str = ""
    """Names its change: it joins another start only if all starts of the change do."""
    after: tuple[OperationId, ...] = ()
    """Of a stop: the starts that must succeed before it is claimed; it ends cancelled if one does not."""
    put: SignedService | None = None
    """The spec that becomes the current one of its service in the same step."""
    first: HostName | None = None
    """Of a start that hosts of a class may claim: whose queue its message is pushed to. Redelivery uses its own queue,
    so that a host which does not answer delays it for LOOK_AFTER only."""

    @property
    def pushed_to(self) -> str:
        return str(Route.to_host(self.first)) if self.first else queue_of(self.operation)

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


def enqueue_calls(queued: Iterable[QueuedOperation]) -> Iterator[Call]:
    """The calls of `operations/enqueue`, in the order of the operations."""
    prefixes = (keys.operation, keys.log, keys.PREFIX, keys.instance, keys.instances_on, keys.starts)
    ttl = int(keys.ENDED_TTL.total_seconds())
    limits = (keys.LOG_CAP, keys.COMMON_LOG_CAP, ttl, in_ms(keys.LOOK_AFTER), highest_fence())
    for batch in _batches(queued):
        groups = [_group(list(alike)) for _, alike in groupby(batch, _shared)]
        orders = [each.order.text for each in batch]
        yield _WHERE, [*prefixes, keys.EVENTS, *limits, json.dumps(groups), *orders]


def _batches(queued: Iterable[QueuedOperation]) -> Iterator[list[QueuedOperation]]:
    """Operations of one service that follow each other stay together: a crash between two calls splits no change."""
    batch: list[QueuedOperation] = []
    for service, those in groupby(queued, lambda each: each.operation.service):
        while part := list(islice(those, None if service else BATCH_SIZE)):
            if batch and len(batch) + len(part) > BATCH_SIZE:
                yield batch
                batch = []
            batch += part
    if batch:
        yield batch


def as_stored(queued: Operation, other: str | None, joined: Mapping[str, Operation]) -> Operation:
    """As the reply of `operations/enqueue` says: stored, joined to another operation or superseded by one."""
    if other is None:
        return queued
    return joined[other] if other in joined else _superseded(queued, by=other)


def _superseded(operation: Operation, *, by: str = "<by>") -> Operation:
    """An operation that ended as it was enqueued: a later one on its instance has a higher fence."""
    failure = Superseded(by=f"{by} on {operation.service}").failure
    end = {"state": State.CANCELLED, "phase": Phase.CANCELLED, "ended_at": operation.created_at, "reason": None}
    return operation.model_copy(update={**end, "failure": failure, "seq": 2})


def _shared(queued: QueuedOperation) -> tuple[object, ...]:
    """Operations with the same key differ only in ids, fences, routes and orders."""
    it = queued.operation
    subject = (it.kind, it.service, it.engine, it.image, it.model, it.needs, it.priority, it.reason)
    joins = (queued.asks_for, queued.alone, queued.together, queued.after, queued.put)
    return queued.command, queued.waits, *joins, it.route.host is None, *subject, it.created_at, it.expires_at


def _group(alike: Sequence[QueuedOperation]) -> dict[str, Any]:
    first, instance, operation = alike[0], alike[0].instance, alike[0].operation
    record = as_fields(operation.model_dump(mode="json", exclude=_OWN))
    queued = Event(operation=operation.id, at=operation.created_at, phase=Phase.QUEUED, message=operation.reason)
    late = _superseded(operation)
    end = Event(operation=late.id, at=operation.created_at, phase=late.phase, failure=late.failure)
    late_fields = as_fields(late.model_dump(mode="json", include=_OF_THE_END)) | {"reason": ""}
    if operation.expires_at:
        record["not_after"] = str(int(operation.expires_at.timestamp() * 1000))
    looked_for = bool(first.asks_for and operation.service)
    if looked_for:
        record["asks_for"] = first.asks_for
    group = {
        "command": first.command,
        "fields": list(chain.from_iterable(record.items())),
        "waits": first.waits,
        "age": age_of(operation),
        "event": _template(event_text(queued), id=operation.id),
        "message": message_template(operation),
        "late_fields": list(chain.from_iterable(late_fields.items())),
        "late_event": _template(event_text(end), id=operation.id),
        "names": list(_own(first)),
        "each": [list(_own(each).values()) for each in alike],
    }
    if looked_for:
        group |= {"asks_for": first.asks_for, "alone": first.alone, "service": operation.service}
        group |= {"together": first.together} if first.together else {}
    if first.after:
        group |= {"after": first.after}
    if first.put:
        id, number = first.put.spec.id, first.put.spec.revision
        stored = {"service": keys.service(id), "services": keys.SERVICES, "revisions": keys.revisions(id)}
        group |= {"put": {**stored, "id": id, "number": number, "record": first.put.record.model_dump_json()}}
    if instance:
        group |= {
            "desired": instance.desired,
            "instance": _template(instance.status_json(), id=operation.id, instance=instance.id),
        }
    return group


def _template(text: str, **values: str) -> list[str]:
    """The text cut at these values, which differ by operation; each is replaced by its name."""
    names = {value: name for name, value in values.items()}
    pieces = re.split(f"({'|'.join(map(re.escape, names))})", text)
    return [names[piece] if at % 2 else piece for at, piece in enumerate(pieces)]


def _own(queued: QueuedOperation) -> dict[str, str]:
    """The same names for all of a group."""
    operation, queue, host = queued.operation, queue_of(queued.operation), queued.operation.route.host
    routes = '", "'.join(operation.routes)
    own = {
        "fence": str(operation.fence),
        "signature": queued.order.signature,
        "route": operation.route,
        "routes": f'["{routes}"]' if routes else "[]",  # JSON: routes hold nothing that it escapes
        "queue": queue,
        **message_values(operation, queued.pushed_to),
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
