"""Cancellation on the API side: one home for cancels by a person, by a stop, by a controller and after a lost reply.

Redis marks the operation. If no worker has claimed it, this node records its end; else that worker does, within a
second. After a crash between mark and end, redelivery takes it to a worker, which finds the mark and records the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta

from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Event, Kind, Operation, Phase
from aima_core.domain.services import Desired, InstanceState
from aima_core.errors import BrokerUnavailable, Cancelled, CorruptData, Failure, Superseded, UnknownOperation
from aima_core.store.operations import OperationStore, now
from aima_core.store.services import ServiceStore
from aima_core.system.background import BackgroundLoop

RETRY_DELAY = timedelta(seconds=1)
IDLE_INTERVAL = timedelta(hours=1)
MAX_UNANSWERED = 10_000
"""Operations kept for cancelling during an outage of Redis; the oldest are dropped first."""
_GONE = (UnknownOperation, CorruptData)
"""Of an operation that was never stored, or was deleted or overwritten since it was listed."""


class Cancellations:
    def __init__(
        self, operations: OperationStore, services: ServiceStore, *, retry_delay: timedelta = RETRY_DELAY
    ) -> None:
        self._operations = operations
        self._services = services
        self._retry_delay = retry_delay
        self._unanswered: deque[tuple[OperationId, Failure]] = deque(maxlen=MAX_UNANSWERED)
        self._ended: deque[Operation] = deque(maxlen=MAX_UNANSWERED)
        """Those whose message may still be on a queue."""
        self.loop = BackgroundLoop(
            "cancellations", self._run_pass, interval=IDLE_INTERVAL, retry_delay=timedelta(), immediately=False
        )

    def cancel(self, id: OperationId) -> Operation:
        """Cancels the operation; an ended one stays as it is. Raises UnknownOperation, BrokerUnavailable."""
        self.cancel_now(id, Phase.CANCELLED, Cancelled().failure)
        return self._operations.get(id)

    def cancel_listed(self, operation: Operation) -> None:
        """Cancels one listed as active; a race with its end or its loss is ignored. Raises BrokerUnavailable."""
        with suppress(*_GONE):
            self.cancel_now(operation.id, Phase.CANCELLED, Cancelled().failure)

    def supersede(self, start: Operation, by: Operation) -> None:
        """Cancels a start that a later one replaces. Raises BrokerUnavailable."""
        failure = Superseded(by=f"operation {by.id} on {by.service}").failure
        with suppress(*_GONE):
            self.cancel_now(start.id, Phase.CANCELLED, failure, superseded_by=by.id)

    def cancel_now(
        self, id: OperationId, phase: Phase, failure: Failure, *, superseded_by: OperationId | None = None
    ) -> None:
        """Cancels it, with this end if no worker has claimed it. Raises UnknownOperation, BrokerUnavailable."""
        if not self._operations.request_cancel(id, superseded_by=superseded_by):
            return
        operation = self._operations.get(id)
        self._operations.append_event(Event(operation=id, at=now(), phase=phase, failure=failure))
        self._ended.append(operation)
        self.loop.wake()
        if operation.kind is Kind.START:
            self._reset_desired(operation, failure if phase is Phase.FAILED else None)

    def cancel_when_redis_answers(self, ids: Iterable[OperationId], failure: Failure) -> None:
        """Fails them in the background: a frozen Redis may still execute the request whose reply was lost."""
        self._unanswered.extend((id, failure) for id in ids)
        self.loop.wake()

    def _run_pass(self) -> None:
        self.loop.sleep(self._retry_delay)  # race: Redis may read the old connection after the new one
        if self.loop.stopped:
            return
        self._cancel_unanswered()
        ended = [self._ended.popleft() for _ in range(len(self._ended))]
        try:
            self._operations.withdraw(ended)  # all at once: it reads whole queues
        except BrokerUnavailable:
            self._ended.extend(ended)
            raise

    def _cancel_unanswered(self) -> None:
        while self._unanswered and not self.loop.stopped:
            id, failure = self._unanswered.popleft()
            try:
                self.cancel_now(id, Phase.FAILED, failure)
            except BrokerUnavailable:
                self._unanswered.appendleft((id, failure))
                raise
            except _GONE:
                continue

    def _reset_desired(self, start: Operation, failure: Failure | None) -> None:
        """The instance is no longer desired, unless it runs or a later operation has a higher fence."""
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
