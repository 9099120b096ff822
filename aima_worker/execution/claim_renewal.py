"""Claim renewal: keeps the claim (a 15 s lease) of every operation that this host executes, and learns of cancels.

One loop renews all of them, and idles while there are none. A failed renewal does not end the attempt: Redis may
answer before the lease expires, and if it does not, the attempt number distinguishes this attempt from the next.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Condition
from threading import Event as Flag

import structlog

from aima_core.domain.ids import HostName, OperationId, ServiceId
from aima_core.domain.operations import Kind
from aima_core.errors import BrokerUnavailable, Cancelled, CorruptData
from aima_core.store.claims import Claimed, ClaimStatus, ClaimStore
from aima_core.store.operations import OperationStore
from aima_core.system.background import BackgroundLoop
from aima_core.trust.orders import images_of
from aima_worker.attempt import Attempt, ClaimLost, Reason, WorkerShutdown

RENEW_INTERVAL = timedelta(seconds=0.5)
"""Also the delay until a running operation learns that it is cancelled."""
IDLE_INTERVAL = timedelta(hours=1)
STOP_TIMEOUT = timedelta(seconds=1)

_log = structlog.get_logger()
_REASONS: dict[ClaimStatus, Reason] = {
    ClaimStatus.CANCEL: Cancelled,
    ClaimStatus.SUPERSEDED: ClaimLost,
    ClaimStatus.RECORD_MISSING: ClaimLost,
}


class ClaimRenewer:
    def __init__(self, operations: OperationStore, claims: ClaimStore, host: HostName, *, capacity_freed: Flag) -> None:
        """`capacity_freed` is set when an attempt has ended and its slot is free."""
        self._operations = operations
        self._claims = claims
        self._host = host
        self._capacity_freed = capacity_freed
        self._running: dict[OperationId, Attempt] = {}
        self._changed = Condition()
        self._shutting_down = False
        self._loop = BackgroundLoop("claim renewal", self._renew_all, interval=self._interval)
        self._loop.start()

    @contextmanager
    def renewing(self, claimed: Claimed) -> Iterator[Attempt]:
        """Renews the claim while inside, and releases it at the end."""
        attempt = Attempt(claimed, host=self._host, operations=self._operations, claims=self._claims)
        with self._changed:
            self._running[claimed.operation.id] = attempt
        self._loop.wake()
        if self._shutting_down:
            attempt.cancel(WorkerShutdown)
        try:
            yield attempt
        finally:
            with self._changed:
                del self._running[claimed.operation.id]
                self._changed.notify_all()
            with suppress(BrokerUnavailable, CorruptData):  # then the lease expires
                if not attempt.release_claim():
                    self._operations.record_lost(attempt.operation, seen=attempt.seen)
            self._capacity_freed.set()

    def cancel_starts_of(self, service: ServiceId, *, below: int, within: timedelta) -> None:
        """Cancels the service's starts below that fence, and waits until they have rolled back."""
        with self._changed:
            for attempt in self._starts_of(service, below):
                attempt.cancel(Cancelled)
            self._changed.wait_for(lambda: not self._starts_of(service, below), timeout=within.total_seconds())

    def running_services(self) -> list[ServiceId]:
        """The services that are being started or stopped here."""
        with self._changed:
            return [service for attempt in self._running.values() if (service := attempt.operation.service)]

    def is_running(self, service: ServiceId) -> bool:
        return service in self.running_services()

    def users_of_image(self, image: str) -> list[OperationId]:
        """The starts and pulls that are running here and may use the image."""
        with self._changed:
            running = [each.claimed for each in self._running.values()]
        starting = (each for each in running if each.operation.kind in (Kind.START, Kind.PULL))
        return [each.operation.id for each in starting if image in images_of(each.command)]

    def cancel_all(self) -> None:
        """At worker shutdown: every attempt, now and from now on, is requeued."""
        with self._changed:
            self._shutting_down = True
            for attempt in self._running.values():
                attempt.cancel(WorkerShutdown)

    def stop(self) -> None:
        """Requeues whatever runs, and then renews no claim any more."""
        self.cancel_all()
        with self._changed:
            self._changed.wait_for(lambda: not self._running, timeout=STOP_TIMEOUT.total_seconds())
        self._loop.stop(within=STOP_TIMEOUT)

    def _starts_of(self, service: ServiceId, below: int) -> list[Attempt]:
        return [
            attempt
            for attempt in self._running.values()
            if (operation := attempt.operation).kind is Kind.START
            and operation.service == service
            and operation.fence < below
        ]

    def _interval(self) -> timedelta:
        return timedelta() if self._running else IDLE_INTERVAL

    def _renew_all(self) -> None:
        self._loop.sleep(RENEW_INTERVAL)
        with self._changed:
            running = list(self._running.values())
        for attempt in running:
            self._renew(attempt)

    def _renew(self, attempt: Attempt) -> None:
        try:
            status = attempt.renew()
        except BrokerUnavailable as unavailable:
            _log.warning("claim renewal failed", operation=attempt.operation.id, reason=str(unavailable))
        except Exception:  # noqa: BLE001 one claim that cannot be renewed must not keep the others from it
            _log.exception("claim renewal failed", operation=attempt.operation.id)
        else:
            if (reason := _REASONS.get(status)) is not None:
                attempt.cancel(reason)
