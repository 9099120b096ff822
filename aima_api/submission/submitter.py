"""The submitter: turns commands and targets into signed operations, and enqueues them within a backlog limit.

One script call stores each operation together with its queue message, so a crash of the API node cannot separate the
two. After a lost reply the operations are cancelled once Redis answers, since the client was refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from aima_api.http.schemas import ServiceOptions
from aima_api.planning.placement import Target
from aima_api.planning.planner import merged_service
from aima_api.submission.cancellation import Cancellations
from aima_core.domain.ids import OperationId, ServiceId
from aima_core.domain.operations import Operation, Phase, PullImage, StartService, State, StopService
from aima_core.domain.resources import ResourceRequest, resources_of
from aima_core.errors import BrokerUnavailable, CorruptData, TooManyOperations
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.store.operation_records import QueuedOperation
from aima_core.store.operations import OperationStore, now
from aima_core.trust.keys import Purpose, SigningKey
from aima_core.trust.records import SignedService

AnyCommand = StartService | PullImage | StopService

BACKLOG_COUNT_INTERVAL = timedelta(seconds=1)


@dataclass(frozen=True)
class Submitter:
    """Every call may raise BrokerUnavailable within seconds."""

    operations: OperationStore
    cancellations: Cancellations
    backlog: BacklogLimit
    signing_key: SigningKey

    def submit(self, command: AnyCommand, targets: Sequence[Target]) -> list[Operation]:
        """One signed operation per target, stored and on its queue."""
        return self.submit_all([(command, targets)])

    def submit_all(self, commands: Sequence[tuple[AnyCommand, Sequence[Target]]]) -> list[Operation]:
        """Several commands in one round trip; the later ones get the higher fence."""
        at = now()
        queued = [each for command, targets in commands for each in self._queued(command, targets, at)]
        try:
            return self.operations.enqueue(queued)
        except (BrokerUnavailable, CorruptData) as outage:  # lost reply: some may be stored
            self.cancellations.cancel_when_redis_answers([each.operation.id for each in queued], outage.failure)
            raise

    def signed_service(self, stored: SignedService | None, id: ServiceId, options: ServiceOptions) -> SignedService:
        """The service as changed by the options, signed again if they change it."""
        service = merged_service(stored and stored.spec, id, options)
        return stored if stored and service == stored.spec else SignedService.of(service, self.signing_key)

    def _queued(self, command: AnyCommand, targets: Sequence[Target], at: datetime) -> list[QueuedOperation]:
        text, template = command.model_dump_json(), _operation(command, at)
        return [self._signed(template, target, text) for target in targets]

    def _signed(self, template: Operation, target: Target, command: str) -> QueuedOperation:
        where = {"route": target.route, "routes": target.routes or (target.route,), "reason": target.reason}
        operation = template.model_copy(update={"id": OperationId.new(), **where})
        signature = self.signing_key.sign(f"{operation.id}\n{command}", Purpose.ORDER)
        return QueuedOperation(operation, command, signature, waits=target.reason is not None and target.host is None)


class BacklogLimit:
    """Bounds the operations that have not ended, approximately: counted in Redis once a second, by this node between.

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


def _operation(command: AnyCommand, at: datetime) -> Operation:
    """A template without id and route, which differ by target."""
    subject: dict[str, Any]
    match command:
        case StartService(service=service, engine=engine, model=model):
            subject = {"service": service, "engine": engine.name, "needs": resources_of(engine, model)}
        case StopService(service=service):
            subject = {"service": service}
        case PullImage(images=images):
            subject = {"image": images[0], "needs": ResourceRequest()}
    return Operation.model_construct(
        kind=command.kind, state=State.QUEUED, phase=Phase.QUEUED, fence=0, created_at=at, **subject
    )
