"""Calling off operations that nobody carries out: at once when asked, later when Redis was away at their submission."""

from __future__ import annotations

from collections.abc import Iterable
from threading import Event as Flag
from threading import Thread

from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Event, Kind, Operation, Phase
from aima_core.domain.services import Desired, InstanceState
from aima_core.errors import BrokerUnavailable, Failure, UnknownOperation
from aima_core.store.operations import OperationStore, now
from aima_core.store.services import ServiceStore

TRIES = 120
PAUSE_SECONDS = 1.0


class Cancellations:
    def __init__(self, operations: OperationStore, services: ServiceStore) -> None:
        self._operations = operations
        self._services = services
        self._closed = Flag()

    def cancel_now(self, id: OperationId, phase: Phase, failure: Failure) -> None:
        """Ask for its end, and end it so if nobody carries it out. Raises UnknownOperation, BrokerUnavailable."""
        if not self._operations.request_cancel(id):
            return
        operation = self._operations.get(id)
        self._operations.append_event(Event(operation=id, at=now(), phase=phase, failure=failure))
        if operation.kind is Kind.START:
            self._no_longer_wanted(operation, failure if phase is Phase.FAILED else None)

    def cancel_when_redis_answers(self, ids: Iterable[OperationId], failure: Failure) -> None:
        """Fail them as soon as Redis answers. What was sent to a frozen Redis happens when it thaws, so keep at it."""
        Thread(target=self._until_done, args=(list(ids), failure), name="call-off", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def _until_done(self, ids: list[OperationId], failure: Failure) -> None:
        for _ in range(TRIES):
            if not ids or self._closed.wait(PAUSE_SECONDS):
                return
            ids = [id for id in ids if not self._done(id, failure)]

    def _done(self, id: OperationId, failure: Failure) -> bool:
        try:
            self.cancel_now(id, Phase.FAILED, failure)
        except BrokerUnavailable:
            return False
        except UnknownOperation:
            return True  # it was never recorded
        return True

    def _no_longer_wanted(self, start: Operation, failure: Failure | None) -> None:
        """Take back what the start wanted of its instance, unless that runs, or somebody wants something since."""
        host = start.host or start.route.host
        if start.service is None or host is None:
            return
        instance = self._services.instance(start.service.on(host))
        if instance is None or instance.fence != start.fence or instance.state is InstanceState.READY:
            return
        state = InstanceState.FAILED if failure else InstanceState.STOPPED
        ended = instance.model_copy(
            update={"desired": Desired.STOPPED, "state": state, "failure": failure, "since": now()}
        )
        self._services.set_desired(ended)
        self._services.update_status(ended)
