"""The submitter: turns commands and targets into operations with signed orders, and enqueues them within a limit.

Fences are reserved first, since the orders name them. One script call stores each operation together with its queue
message, so a crash of the API node cannot separate the two. After a lost reply the operations are cancelled once Redis
answers, since the client was refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from typing import Any, NamedTuple

from aima_api.http.schemas import ServiceOptions
from aima_api.planning.merge import merged_service, revised
from aima_api.planning.placement import Target
from aima_api.submission.cancellation import Cancellations
from aima_core.domain.ids import OperationId, ServiceId
from aima_core.domain.operations import (
    Command,
    Operation,
    Phase,
    PinModel,
    PullImage,
    PullModel,
    RemoveImage,
    RemoveModel,
    StartService,
    State,
    StopService,
)
from aima_core.domain.resources import ResourceRequest
from aima_core.errors import BrokerUnavailable, CorruptData, TooManyOperations
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.store.operation_records import BATCH_SIZE, QueuedOperation
from aima_core.store.operations import OperationStore, now
from aima_core.trust.keys import SigningKey
from aima_core.trust.orders import Mandate, Order, digest_of, images_of, pull_policy_of, sign_orders
from aima_core.trust.records import SignedService

BACKLOG_COUNT_INTERVAL = timedelta(seconds=1)


class Dispatch(NamedTuple):
    """A command, and where it is to be executed, on whose behalf."""

    command: Command
    targets: Sequence[Target]
    mandate: Mandate
    asks_for: str = ""
    """Of a start: what identical ones have in common."""
    alone: bool = False
    """The service has one instance only, wherever that is."""
    ids: Sequence[OperationId] = ()
    """Of the operations, one per target, where others refer to them; empty for new ones."""
    after: tuple[OperationId, ...] = ()
    """Of a stop: the starts that must succeed before."""
    put: SignedService | None = None
    """The spec that becomes the current one of its service, in one step with the first operation."""


@dataclass(frozen=True)
class Submitter:
    """Every call may raise BrokerUnavailable within seconds."""

    operations: OperationStore
    cancellations: Cancellations
    backlog: BacklogLimit
    signing_key: SigningKey

    def submit(self, command: Command, targets: Sequence[Target], mandate: Mandate) -> list[Operation]:
        """One operation per target, stored and on its queue."""
        return self.submit_all([Dispatch(command, targets, mandate)])

    def submit_all(self, dispatches: Sequence[Dispatch]) -> list[Operation]:
        """Several commands in one batch; the later ones get the higher fence."""
        if not (number := sum(len(each.targets) for each in dispatches)):
            return []
        at, fences = now(), count(self.operations.reserve_fences(number))
        submitted: list[OperationId] = []
        try:
            return self.operations.enqueue(
                queued for each in dispatches for queued in self._queued(each, fences, at, submitted)
            )
        except (BrokerUnavailable, CorruptData) as outage:  # lost reply: some may be stored
            self.cancellations.cancel_when_redis_answers(submitted, outage.failure)
            raise

    def signed_service(
        self,
        stored: SignedService | None,
        id: ServiceId,
        change: ServiceOptions | Mapping[str, Any],
        caller: str,
        owner: str | None = None,
    ) -> SignedService:
        """The service as changed by options, or with a whole spec; signed again if changed. Raises InvalidRequest."""
        before = stored and stored.spec
        if isinstance(change, ServiceOptions):
            service = merged_service(before, id, change, caller=caller)
        else:
            service = revised(before, id, change, caller=caller, owner=owner)
        return stored if stored and service is stored.spec else SignedService.of(service, self.signing_key)

    def _queued(
        self, dispatch: Dispatch, fences: Iterator[int], at: datetime, submitted: list[OperationId]
    ) -> Iterator[QueuedOperation]:
        command, mandate = dispatch.command, dispatch.mandate
        text, operation = command.model_dump_json(), _operation(command, at, expires_at=at + mandate.expires)
        signed: dict[str, Any] = {"command": digest_of(text), "images": images_of(command), "caller": mandate.caller}
        signed["pull"] = pull_policy_of(command)
        together = command.change[0] if isinstance(command, StartService) and command.change else ""
        ids = iter(dispatch.ids or [OperationId.new() for _ in dispatch.targets])
        put = dispatch.put
        for start in range(0, len(dispatch.targets), BATCH_SIZE):
            targets = dispatch.targets[start : start + BATCH_SIZE]
            records = [operation.with_valid(**_own(target, next(fences), next(ids))) for target in targets]
            submitted += [record.id for record in records]
            orders = sign_orders(Order.of(records[0], **signed), records, self.signing_key)
            for record, order, target in zip(records, orders, targets, strict=True):
                waits = target.reason is not None and target.host is None
                joins = (dispatch.asks_for, dispatch.alone, together, dispatch.after)
                yield QueuedOperation(record, text, order, waits, *joins, put, target.first)
                put = None


class BacklogLimit:
    """Bounds the operations that have not ended, approximately: polled once a second, counted by this node between.

    A start so costs no round trip more. Stops are never refused: they shorten the backlog.
    """

    def __init__(self, redis: TextRedis, *, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._most = most
        self._clock = clock
        self._active = 0
        self._count_again_at = float("-inf")

    def reserve(self, number: int) -> None:
        """For so many starts or pulls. Raises TooManyOperations, BrokerUnavailable."""
        if (at := self._clock()) >= self._count_again_at:
            self._active = self._redis.zcard(keys.ACTIVE)
            self._count_again_at = at + BACKLOG_COUNT_INTERVAL.total_seconds()
        if self._active + number > self._most:
            raise TooManyOperations(active=self._active, most=self._most)
        self._active += number


def _own(target: Target, fence: int, id: OperationId) -> dict[str, Any]:
    """The fields in which the operations of one command differ."""
    where = {"route": target.route, "routes": target.routes or (target.route,), "reason": target.reason}
    return {"id": id, "fence": fence, **where}


def _operation(command: Command, at: datetime, *, expires_at: datetime) -> Operation:
    """A template without id, fence and route, which differ by target."""
    subject: dict[str, Any]
    match command:
        case StartService(service=service, engine=engine, priority=priority):
            subject = {"service": service, "engine": engine.name, "needs": command.needs}
            subject |= {"priority": priority}
        case StopService(service=service):
            subject = {"service": service}
        case PullImage(images=images):
            subject = {"image": images[0], "needs": ResourceRequest()}
        case RemoveImage(image=image):
            subject = {"image": image}
        case PullModel(model=model):
            subject = {"model": model, "needs": ResourceRequest()}
        case RemoveModel(model=model) | PinModel(model=model):
            subject = {"model": model}
        case _:  # a collection of models, which names none
            subject = {}
    subject |= {"created_at": at, "expires_at": expires_at}
    return Operation.model_construct(kind=command.kind, state=State.QUEUED, phase=Phase.QUEUED, seq=1, **subject)
