"""The background loop: the only place that starts a looping thread, and the error boundary of all of them.

A pass that fails never ends its loop: an outage of Redis or of the container engine is logged and retried, any other
exception is logged with its traceback and retried.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from threading import Event, Thread, current_thread

import structlog

from aima_core.errors import BrokerUnavailable, DockerUnavailable

_log = structlog.get_logger()

Outage = BrokerUnavailable | DockerUnavailable


@dataclass(eq=False)
class BackgroundLoop:
    """Runs one function in a daemon thread: every `interval`, and at once after `wake`, until `stop`."""

    name: str
    run: Callable[[], object]
    _: KW_ONLY
    interval: timedelta | Callable[[], timedelta]
    retry_delay: timedelta | None = None
    """Replaces `interval` after a failed pass."""
    immediately: bool = True
    settle_delay: timedelta = timedelta()
    """Waited after a wake."""
    woken: Event = field(default_factory=Event)
    """Others may set it, too."""
    on_outage: Callable[[Outage], None] | None = None

    def __post_init__(self) -> None:
        self._stopped = Event()
        self._thread = Thread(target=self._loop, name=self.name, daemon=True)

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
        self.woken.set()

    def sleep(self, duration: timedelta) -> None:
        """Sleeps within a pass, but not beyond `stop`."""
        self._stopped.wait(duration.total_seconds())

    def stop(self, *, within: timedelta = timedelta()) -> None:
        """Ends the loop after the current pass, and waits for that pass for up to `within`."""
        self._stopped.set()
        self.woken.set()
        if self.started and self._thread is not current_thread():
            self._thread.join(within.total_seconds())

    def _loop(self) -> None:
        if not self.immediately:
            self._wait(self._delay(failed=False))
        while not self._stopped.is_set():
            self.woken.clear()
            self._wait(self._delay(failed=not self._succeeds()))

    def _wait(self, delay: float) -> None:
        if self.woken.wait(delay) and self.settle_delay:
            self.sleep(self.settle_delay)

    def _succeeds(self) -> bool:
        try:
            self.run()
        except (BrokerUnavailable, DockerUnavailable) as outage:
            _log.warning("pass skipped", loop=self.name, reason=str(outage))
            if self.on_outage is not None:
                self.on_outage(outage)
            return False
        except Exception:  # noqa: BLE001 the error boundary of the thread: a pass that fails must not be the last
            _log.exception("pass failed", loop=self.name)
            return False
        return True

    def _delay(self, *, failed: bool) -> float:
        if self._stopped.is_set():
            return 0.0
        if failed and self.retry_delay is not None:
            return self.retry_delay.total_seconds()
        interval = self.interval() if callable(self.interval) else self.interval
        return interval.total_seconds()
