"""From a command to recorded, signed operations and rung doorbells.

Each operation is put down in one step with its doorbell, so that an API node may die at any moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import SecretStr

from aima_api.http.metrics import BacklogLimit
from aima_api.planning.placement import Target
from aima_api.submission.cancellation import Cancellations
from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Operation, Phase, PullImage, StartService, State, StopService
from aima_core.domain.resources import ResourceRequest, resources_of
from aima_core.errors import BrokerUnavailable
from aima_core.store.enqueue import QueuedOperation
from aima_core.store.operations import OperationStore, now
from aima_core.trust.signatures import sign

AnyCommand = StartService | PullImage | StopService


class Submitter:
    def __init__(
        self, operations: OperationStore, *, cancellations: Cancellations, intake: BacklogLimit, signing_key: SecretStr
    ) -> None:
        self._operations = operations
        self._cancellations = cancellations
        self._intake = intake
        self._signing_key = signing_key

    def check_backlog(self, number: int) -> None:
        """For so many starts or pulls. Raises TooManyOperations, BrokerUnavailable."""
        self._intake.reserve(number)

    def submit(self, command: AnyCommand, places: Sequence[Target]) -> list[Operation]:
        """One operation for each place, recorded, signed and rung for. Raises BrokerUnavailable within seconds."""
        return self.submit_all([(command, places)])

    def submit_all(self, wishes: Sequence[tuple[AnyCommand, Sequence[Target]]]) -> list[Operation]:
        """Several commands in one go, the later with the higher fence."""
        at = now()
        orders = [order for command, places in wishes for order in self._orders(command, places, at)]
        try:
            return self._operations.enqueue(orders)
        except BrokerUnavailable as away:  # some may be down for all that
            self._cancellations.cancel_when_redis_answers([order.operation.id for order in orders], away.failure)
            raise

    def _orders(self, command: AnyCommand, places: Sequence[Target], at: datetime) -> list[QueuedOperation]:
        text, asked = command.model_dump_json(), _operation(command, at)
        return [self._order(asked, place, text) for place in places]

    def _order(self, asked: Operation, place: Target, command: str) -> QueuedOperation:
        where = {"route": place.route, "routes": place.routes or (place.route,), "reason": place.reason}
        operation = asked.model_copy(update={"id": OperationId.new(), **where})
        signature = sign(command, self._signing_key, operation.id)
        return QueuedOperation(operation, command, signature, waits=place.reason is not None and place.host is None)


def _operation(command: AnyCommand, at: datetime) -> Operation:
    """Before it is known where it goes."""
    return Operation.model_construct(
        state=State.QUEUED, phase=Phase.QUEUED, fence=0, created_at=at, **_subject(command)
    )


def _subject(command: AnyCommand) -> dict[str, Any]:
    match command:
        case StartService(service=service, engine=engine, model=model):
            needs = resources_of(engine, model)
            return {"kind": command.kind, "service": service, "engine": engine.name, "needs": needs}
        case StopService():
            return {"kind": command.kind, "service": command.service}
        case PullImage():
            return {"kind": command.kind, "image": command.images[0], "needs": ResourceRequest()}
