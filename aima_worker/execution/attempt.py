"""One attempt at one operation, and what it reports."""

from __future__ import annotations

from contextlib import suppress
from threading import Lock
from typing import Any

from aima_core.domain.ids import HostName
from aima_core.domain.operations import Event, Operation, Phase, PullProgress
from aima_core.errors import BrokerUnavailable
from aima_core.store.claims import Claimed, ClaimStatus, ClaimStore
from aima_core.store.operations import OperationStore, now
from aima_worker.execution.cancellation import Cancellable, ClaimLost


class Attempt(Cancellable):
    def __init__(self, claimed: Claimed, *, host: HostName, operations: OperationStore, claims: ClaimStore) -> None:
        super().__init__()
        self.claimed = claimed
        self.host = host
        self.phase = Phase.QUEUED
        self.seen = claimed.operation.seq
        """The number of the last event that was recorded."""
        self._operations = operations
        self._claims = claims
        self._claim = Lock()
        self._released = False

    @property
    def operation(self) -> Operation:
        return self.claimed.operation

    @property
    def is_portable(self) -> bool:
        """Nothing is there yet that another host could not do as well."""
        return self.phase in (Phase.QUEUED, Phase.PULLING)

    def enter_phase(self, phase: Phase, message: str | None = None, **more: Any) -> None:
        """Tell that a phase has begun; `more` are further fields of the event."""
        self.raise_if_cancelled()
        self.phase = phase
        event = self._event(message=message, **more)  # the same at each try: a frozen Redis hears all in the end
        self.retry_until_redis_answers(lambda: self._record(event))

    def report_progress(self, progress: PullProgress) -> None:
        self._try_to_record(progress=progress)

    def report_message(self, message: str) -> None:
        """Tell in a sentence what is being waited for, or has been noticed."""
        self._try_to_record(message=message)

    def report_log_lines(self, lines: tuple[str, ...]) -> None:
        """Pass on what the container has said."""
        self._try_to_record(lines=lines)

    def finish(self, phase: Phase, **more: Any) -> None:
        """Tell the end. Does nothing if the operation has ended otherwise meanwhile."""
        self.phase = phase
        self._operations.append_event(self._event(**more), attempt=self.claimed.attempt)

    def requeue(self, message: str) -> None:
        """Leave it to the next worker: this host's, once something has been made here, else anybody's."""
        to_anybody = self.is_portable
        self.finish(Phase.QUEUED, message=message)
        self.release_claim(to_anybody=to_anybody)

    def renew(self) -> ClaimStatus:
        """Keep the claim, and learn how it stands. Once it was let go it stays so, however late this comes."""
        with self._claim:
            if self._released:
                return ClaimStatus.VALID
            return self._claims.renew(self.operation.id, self.host, self.claimed.attempt)

    def release_claim(self, *, to_anybody: bool = False) -> bool:
        """False when the claim was another's by now, or is lost."""
        with self._claim:
            self._released = True
            return self._claims.release(self.operation.id, self.host, self.claimed.attempt, to_any_host=to_anybody)

    def _try_to_record(self, **more: Any) -> None:
        """Progress that cannot be told now is not worth waiting for: the next will be."""
        with suppress(BrokerUnavailable):
            self._record(self._event(**more))

    def _record(self, event: Event) -> None:
        recorded = self._operations.append_event(event, attempt=self.claimed.attempt)
        if not recorded:
            self.cancel(ClaimLost)
            self.raise_if_cancelled()
        self.seen = recorded

    def _event(self, **more: Any) -> Event:
        return Event(operation=self.operation.id, at=now(), phase=self.phase, host=self.host, **more)
