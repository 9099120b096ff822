"""The background loop: the only place that starts a looping thread, and the error boundary of all of them.

A pass that fails never ends its loop: an outage of Redis or of the container engine is logged and retried, any other
exception is logged with its traceback and retried.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from threading import Event, Thread, current_thread

import structlog

from aima_core.errors import BrokerUnavailable, DockerUnavailable

_log = structlog.get_logger()

Outage = BrokerUnavailable | DockerUnavailable


class BackgroundLoop:
    """Runs one function in a daemon thread: every `interval`, and at once after `wake`, until `stop`."""

    def __init__(
        self,
        name: str,
        run: Callable[[], object],
        *,
        interval: timedelta | Callable[[], timedelta],
        retry_delay: timedelta | None = None,
        immediately: bool = True,
        settle_delay: timedelta = timedelta(),
        woken: Event | None = None,
        on_outage: Callable[[Outage], None] | None = None,
    ) -> None:
        """`retry_delay` replaces `interval` after a failed pass; `settle_delay` is waited after a wake.

        `woken` is an event that others may set, too.
        """
        self._name = name
        self._pass = run
        self._interval = interval
        self._retry_delay = retry_delay
        self._immediately = immediately
        self._settle_delay = settle_delay
        self._woken = woken or Event()
        self._on_outage = on_outage
        self._stopped = Event()
        self._thread = Thread(target=self._loop, name=name, daemon=True)

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    @property
    def started(self) -> bool:
        return self._thread.ident is not None

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Runs the next pass now instead of after the interval."""
        self._woken.set()

    def sleep(self, duration: timedelta) -> None:
        """Sleeps within a pass, but not beyond `stop`."""
        self._stopped.wait(duration.total_seconds())

    def stop(self, *, within: timedelta = timedelta()) -> None:
        """Ends the loop after the current pass, and waits for that pass for up to `within`."""
        self._stopped.set()
        self._woken.set()
        if self.started and self._thread is not current_thread():
            self._thread.join(within.total_seconds())

    def _loop(self) -> None:
        if not self._immediately:
            self._wait(self._delay(failed=False))
        while not self._stopped.is_set():
            self._woken.clear()
            self._wait(self._delay(failed=not self._succeeds()))

    def _wait(self, delay: float) -> None:
        if self._woken.wait(delay) and self._settle_delay:
            self.sleep(self._settle_delay)

    def _succeeds(self) -> bool:
        try:
            self._pass()
        except (BrokerUnavailable, DockerUnavailable) as outage:
            _log.warning("pass skipped", loop=self._name, reason=str(outage))
            if self._on_outage is not None:
                self._on_outage(outage)
            return False
        except Exception:  # noqa: BLE001 the error boundary of the thread: a pass that fails must not be the last
            _log.exception("pass failed", loop=self._name)
            return False
        return True

    def _delay(self, *, failed: bool) -> float:
        if self._stopped.is_set():
            return 0.0
        if failed and self._retry_delay is not None:
            return self._retry_delay.total_seconds()
        interval = self._interval() if callable(self._interval) else self._interval
        return interval.total_seconds()
