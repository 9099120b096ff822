"""Keeps the claims of everything under way on this host, and passes on what is asked of it.

One thread for all of them, which sleeps while nothing is under way. A claim whose renewal fails is not given up: Redis
may be back before it runs out, and if it is not, another attempt is told apart by its number.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Condition, Thread

import structlog

from aima_core.domain.ids import HostName, OperationId, ServiceId
from aima_core.domain.operations import Kind
from aima_core.errors import AimaError, BrokerUnavailable, Cancelled
from aima_core.store.claims import Claimed, ClaimStatus, ClaimStore
from aima_core.store.operations import OperationStore
from aima_worker.execution.attempt import Attempt
from aima_worker.execution.cancellation import ClaimLost, WorkerShutdown

RENEW_SECONDS = 0.5
"""Also how long a cancelled operation may take to hear of it; a claim lasts thirty times as long."""
LAST_RENEWAL_SECONDS = 1.0

_log = structlog.get_logger()
_MEANING: dict[ClaimStatus, type[AimaError | WorkerShutdown | ClaimLost]] = {
    ClaimStatus.CANCEL: Cancelled,
    ClaimStatus.SUPERSEDED: ClaimLost,
    ClaimStatus.RECORD_MISSING: ClaimLost,
}


class ClaimRenewer:
    def __init__(self, operations: OperationStore, claims: ClaimStore, host: HostName) -> None:
        self._operations = operations
        self._claims = claims
        self._host = host
        self._under_way: dict[OperationId, Attempt] = {}
        self._changed = Condition()
        self._ending = False
        self._thread = Thread(target=self._keep, name="keeper", daemon=True)
        self._thread.start()

    @contextmanager
    def renewing(self, claimed: Claimed) -> Iterator[Attempt]:
        """The undertaking of a claim, which is renewed while inside and let go at the end."""
        attempt = Attempt(claimed, host=self._host, operations=self._operations, claims=self._claims)
        with self._changed:
            self._under_way[claimed.operation.id] = attempt
            self._changed.notify_all()
        if self._ending:
            attempt.cancel(WorkerShutdown)
        try:
            yield attempt
        finally:
            with self._changed:
                del self._under_way[claimed.operation.id]
                self._changed.notify_all()
            with suppress(BrokerUnavailable):  # then it ends by itself
                if not attempt.release_claim():
                    self._operations.record_lost(attempt.operation, seen=attempt.seen)

    def cancel_starts_of(self, service: ServiceId, *, below: int, within: float) -> None:
        """Cancel what is bringing the service up here for an older wish, and wait until it has cleared away."""
        with self._changed:
            for attempt in self._starts_of(service, below):
                attempt.cancel(Cancelled)
            self._changed.wait_for(lambda: not self._starts_of(service, below), timeout=within)

    def running_services(self) -> list[ServiceId]:
        """Those that are being started or stopped here."""
        with self._changed:
            services = [attempt.operation.service for attempt in self._under_way.values()]
        return [service for service in services if service is not None]

    def is_running(self, service: ServiceId) -> bool:
        """Whether a start or stop of it is under way here."""
        return service in self.running_services()

    def interrupt_all(self) -> None:
        """This worker ends: interrupt everything, now and from now on."""
        with self._changed:
            self._ending = True
            for attempt in self._under_way.values():
                attempt.cancel(WorkerShutdown)
            self._changed.notify_all()

    def stop(self) -> None:
        """Hand on whatever is under way, and keep no claim once it has been let go."""
        self.interrupt_all()
        self._thread.join(LAST_RENEWAL_SECONDS)

    def _starts_of(self, service: ServiceId, below: int) -> list[Attempt]:
        return [
            attempt
            for attempt in self._under_way.values()
            if (operation := attempt.operation).kind is Kind.START
            and operation.service == service
            and operation.fence < below
        ]

    def _keep(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._under_way or self._ending)
                if not self._under_way:
                    return
                self._changed.wait(RENEW_SECONDS)
                under_way = list(self._under_way.values())
            for attempt in under_way:
                self._renew(attempt)

    def _renew(self, attempt: Attempt) -> None:
        try:
            standing = attempt.renew()
        except BrokerUnavailable as away:
            _log.warning("claim not renewed", operation=attempt.operation.id, reason=str(away))
            return
        if (why := _MEANING.get(standing)) is not None:
            attempt.cancel(why)
