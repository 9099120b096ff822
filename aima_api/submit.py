"""From a command to recorded, signed operations and rung doorbells.

An operation is recorded before its doorbell rings, so that a worker never comes to an empty record; when the doorbell
cannot be rung, what was recorded is given up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import SecretStr

from aima_api.call_off import CallOff
from aima_api.placement import Place
from aima_core.failures import BrokerUnavailable
from aima_core.ids import InstanceId, OperationId
from aima_core.operation_store import OperationStore, now
from aima_core.operations import Event, Kind, Operation, Phase, PullImage, StartService, State, StopService
from aima_core.queue import Doorbell
from aima_core.service_store import ServiceStore
from aima_core.services import Desired, Instance, InstanceState
from aima_core.signing import sign

AnyCommand = StartService | PullImage | StopService


class Submit:
    def __init__(
        self,
        *,
        operations: OperationStore,
        services: ServiceStore,
        doorbell: Doorbell,
        call_off: CallOff,
        signing_key: SecretStr,
    ) -> None:
        self._operations = operations
        self._services = services
        self._doorbell = doorbell
        self._call_off = call_off
        self._signing_key = signing_key

    def submit(self, command: AnyCommand, places: Sequence[Place]) -> list[Operation]:
        """One operation for each place, recorded, signed and rung for. Raises BrokerUnavailable within seconds."""
        operations = [self._operation(command, place) for place in places]
        try:
            for operation in operations:
                self._record(operation, command)
            for operation, place in zip(operations, places, strict=True):
                self._doorbell.ring(operation, also=place.also)
        except BrokerUnavailable as away:
            self._call_off.later([operation.id for operation in operations], away.failure)
            raise
        return operations

    def _operation(self, command: AnyCommand, place: Place) -> Operation:
        return Operation(
            id=OperationId.new(),
            kind=command.kind,
            state=State.QUEUED,
            phase=Phase.QUEUED,
            fence=self._operations.next_fence(),
            route=place.route,
            reason=place.reason,
            created_at=now(),
            **_subject(command),
        )

    def _record(self, operation: Operation, command: AnyCommand) -> None:
        text = command.model_dump_json()
        self._operations.create(operation, text, sign(text, self._signing_key, operation.id))
        queued = Event(operation=operation.id, at=now(), phase=Phase.QUEUED, message=operation.reason)
        self._operations.record(queued)
        if operation.service and operation.route.host:
            self._services.intend(_wanted(operation, operation.service.on(operation.route.host)))


def _subject(command: AnyCommand) -> dict[str, Any]:
    match command:
        case StartService():
            return {"service": command.service, "engine": command.engine.name}
        case StopService():
            return {"service": command.service}
        case PullImage():
            return {"image": command.images[0]}


def _wanted(operation: Operation, id: InstanceId) -> Instance:
    starts = operation.kind is Kind.START
    return Instance(
        id=id,
        desired=Desired.RUNNING if starts else Desired.STOPPED,
        fence=operation.fence,
        state=InstanceState.STARTING if starts else InstanceState.STOPPING,
        engine=operation.engine,
        operation=operation.id,
        since=operation.created_at,
    )
