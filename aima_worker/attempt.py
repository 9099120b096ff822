"""One attempt at one operation: what it reports to Redis, and how any thread cancels it.

Every report carries the attempt's number. Redis refuses the report of an attempt whose claim has passed to another,
and that attempt then ends without touching anything (ClaimLost).
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Event as Flag
from threading import Lock, Thread
from typing import Any, TypeVar

import structlog

from aima_core.domain.ids import HostName
from aima_core.domain.models import FetchProgress
from aima_core.domain.operations import Event, Phase, PullProgress
from aima_core.errors import AimaError, BrokerUnavailable, Cancelled, CorruptData
from aima_core.store.claims import Claimed, ClaimStatus, ClaimStore
from aima_core.store.operations import OperationStore, now

REDIS_RETRY_INTERVAL = timedelta(seconds=0.5)

_T = TypeVar("_T")
_log = structlog.get_logger()


class WorkerShutdown(Exception):
    """This worker shuts down: the operation is requeued, and what it has made stays for the next worker."""


class ClaimLost(Exception):
    """Another attempt has begun, or the record is gone: this attempt must report and touch nothing more."""


Reason = type[AimaError | WorkerShutdown | ClaimLost]


class Attempt:
    """A claimed operation while it is executed. Reports of phases are retried; reports of progress may be lost."""

    def __init__(self, claimed: Claimed, *, host: HostName, operations: OperationStore, claims: ClaimStore) -> None:
        self.claimed = claimed
        self.operation = claimed.operation
        self.host = host
        self.phase = Phase.QUEUED
        self.seen = claimed.operation.seq
        """The sequence number of the last event recorded."""
        self._operations = operations
        self._claims = claims
        self._claim = Lock()
        self._released = False
        self._reason: Reason | None = None
        self._woken = Flag()
        self._closed_on_cancel: list[Callable[[], None]] = []

    @property
    def is_portable(self) -> bool:
        """Nothing exists on this host yet that another host could not make as well."""
        return self.phase in (Phase.QUEUED, Phase.PULLING)

    def enter_phase(self, phase: Phase, message: str | None = None) -> None:
        """Appends a phase event. Retries until Redis answers, with the same event, so a lost reply cannot double it."""
        self.raise_if_cancelled()
        self.phase = phase
        event = self._event(message=message)
        self.retry_until_redis_answers(lambda: self._record(event))

    def report(
        self,
        message: str | None = None,
        *,
        progress: PullProgress | None = None,
        fetch: FetchProgress | None = None,
        lines: tuple[str, ...] = (),
    ) -> None:
        """Appends a sentence for people, the progress of a pull or a fetch, or log lines.

        Not retried: the next report supersedes it.
        """
        with suppress(BrokerUnavailable, CorruptData):
            self._record(self._event(message=message, progress=progress, fetch=fetch, lines=lines))

    def finish(self, phase: Phase, **fields: Any) -> None:
        """Appends the last event, with further fields. Does nothing if the operation has ended otherwise."""
        self.phase = phase
        self._operations.append_event(self._event(**fields), attempt=self.claimed.attempt)

    def requeue(self, message: str) -> None:
        """Leaves the operation to the next worker: of this host once something exists here, else of any host."""
        to_anybody = self.is_portable
        self.finish(Phase.QUEUED, message=message)
        self.release_claim(to_anybody=to_anybody)

    def renew(self) -> ClaimStatus:
        """Renews the claim, unless it has been released: a late renewal must not take it back."""
        with self._claim:
            if self._released:
                return ClaimStatus.VALID
            return self._claims.renew(self.operation.id, self.host, self.claimed.attempt)

    def release_claim(self, *, to_anybody: bool = False) -> bool:
        """False if the claim had passed to another attempt or its record is gone."""
        with self._claim:
            self._released = True
            return self._claims.release(self.operation.id, self.host, self.claimed.attempt, to_any_host=to_anybody)

    @property
    def cancelled(self) -> bool:
        return self._reason is not None

    def cancel(self, reason: Reason = Cancelled) -> None:
        """Closes what the attempt waits for, from any thread; its next check raises the reason.

        The first reason counts, except that ClaimLost overrides: what belongs to another attempt must not be rolled
        back.
        """
        if self._reason is None or reason is ClaimLost:
            self._reason = reason
        self._woken.set()
        for close in list(self._closed_on_cancel):
            close()

    def raise_if_cancelled(self) -> None:
        """Raises Cancelled, WorkerShutdown or ClaimLost."""
        if self._reason is not None:
            raise self._reason()

    def sleep(self, duration: timedelta) -> None:
        """A cancellable sleep. Raises as `raise_if_cancelled` does."""
        self._woken.wait(duration.total_seconds())
        self.raise_if_cancelled()

    def retry_until_redis_answers(self, call: Callable[[], _T]) -> _T:
        """Returns the call's result, retrying while Redis is unavailable. Raises as `raise_if_cancelled` does."""
        while True:
            try:
                return call()
            except BrokerUnavailable as unavailable:
                _log.warning("Redis unavailable, call retried", reason=str(unavailable))
                self.sleep(REDIS_RETRY_INTERVAL)

    @contextmanager
    def close_on_cancel(self, close: Callable[[], None]) -> Iterator[None]:
        """While inside, a cancel calls `close`; leaving calls it in any case."""
        self._closed_on_cancel.append(close)
        try:
            self.raise_if_cancelled()
            yield
        finally:
            self._closed_on_cancel.remove(close)
            close()

    def run_in_thread(self, call: Callable[[], _T]) -> _T:
        """Returns the result of a call that cannot be interrupted; a cancel abandons it to its own thread."""
        future, done = Future[_T](), Flag()
        future.add_done_callback(lambda _: done.set())

        def run() -> None:
            try:
                future.set_result(call())
            except BaseException as failed:  # noqa: BLE001 the thread's boundary: raised again in the waiting thread
                future.set_exception(failed)

        with self.close_on_cancel(done.set):
            Thread(target=run, name="uninterruptible call", daemon=True).start()
            done.wait()
        self.raise_if_cancelled()
        return future.result()

    def _record(self, event: Event) -> None:
        recorded = self._operations.append_event(event, attempt=self.claimed.attempt)
        if not recorded:
            self.cancel(ClaimLost)
            self.raise_if_cancelled()
        self.seen = recorded

    def _event(self, **fields: Any) -> Event:
        return Event(operation=self.operation.id, at=now(), phase=self.phase, host=self.host, **fields)
