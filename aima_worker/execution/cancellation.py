"""Something that takes time on this host, and can be told from any thread to end soon."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Event as Flag
from threading import Thread
from typing import Protocol, TypeVar

import structlog

from aima_core.errors import AimaError, BrokerUnavailable, Cancelled

INSIST_SECONDS = 0.5

_T = TypeVar("_T")
_log = structlog.get_logger()


class WorkerShutdown(Exception):
    """This worker ends; what it has made stays for the next."""


class ClaimLost(Exception):
    """Another attempt has begun, or the record is gone: this one must fall silent and touch nothing more."""


class Closable(Protocol):
    def close(self) -> None: ...


class Cancellable:
    def __init__(self) -> None:
        self._ending: type[AimaError | WorkerShutdown | ClaimLost] | None = None
        self._woken = Flag()
        self._closed_at_end: list[Closable] = []

    @property
    def cancelled(self) -> bool:
        return self._ending is not None

    def cancel(self, why: type[AimaError | WorkerShutdown | ClaimLost] = Cancelled) -> None:
        """Make it end soon, from any thread: what it waits for is cut short.

        The first reason given counts, but for Lost, since nothing may be cleared away that is another attempt's now.
        """
        if self._ending is None or why is ClaimLost:
            self._ending = why
        self._woken.set()
        for waited_for in list(self._closed_at_end):
            waited_for.close()

    def raise_if_cancelled(self) -> None:
        """Return if it may go on. Raises Cancelled, WorkerShutdown or ClaimLost."""
        if self._ending is not None:
            raise self._ending()

    def sleep(self, seconds: float) -> None:
        """Wait, but not beyond being interrupted. Raises as `go_on` does."""
        self._woken.wait(seconds)
        self.raise_if_cancelled()

    def retry_until_redis_answers(self, call: Callable[[], _T]) -> _T:
        """What the call gives, waiting for as long as Redis is away. Raises as `go_on` does."""
        while True:
            try:
                return call()
            except BrokerUnavailable as away:
                _log.warning("waiting for Redis", reason=str(away))
                self.sleep(INSIST_SECONDS)

    @contextmanager
    def close_on_cancel(self, waited_for: Closable) -> Iterator[None]:
        """While inside, an interruption closes what is waited for, and leaving closes it in any case."""
        self._closed_at_end.append(waited_for)
        try:
            self.raise_if_cancelled()
            yield
        finally:
            self._closed_at_end.remove(waited_for)
            waited_for.close()

    def run_in_thread(self, call: Callable[[], _T]) -> _T:
        """What a call gives that nobody can cut short: when this is interrupted, it is left to end by itself."""
        given, done = Future[_T](), Flag()
        given.add_done_callback(lambda _: done.set())
        with self.close_on_cancel(_Ending(done)):
            Thread(target=_answer, args=(given, call), name="aside", daemon=True).start()
            done.wait()
        self.raise_if_cancelled()
        return given.result()

    def report_log_lines(self, lines: tuple[str, ...]) -> None:
        """Pass on what the container has said; nobody listens unless a subclass says so."""


def _answer(given: Future[_T], call: Callable[[], _T]) -> None:
    try:
        given.set_result(call())
    except BaseException as failed:  # noqa: BLE001 the thread's boundary: raised again by who waits
        given.set_exception(failed)


class _Ending:
    """A wait that ends when it is closed."""

    def __init__(self, waited_for: Flag) -> None:
        self._waited_for = waited_for

    def close(self) -> None:
        self._waited_for.set()
