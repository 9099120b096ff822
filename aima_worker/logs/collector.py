"""The tails of all containers of this host, and the one thread that writes down what they have read.

It writes batches at most ten times a second, and only what somebody follows; last lines every two seconds, and only
those that changed. While nothing is said, nothing is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Event as Flag
from threading import Lock, Thread

import structlog

from aima_core.domain.ids import InstanceId, ServiceId
from aima_core.errors import AimaError, BrokerUnavailable
from aima_core.logs.protocol import LogCursor
from aima_worker.context import HostContext
from aima_worker.logs.channel import LogChannel
from aima_worker.logs.tail import Tail
from aima_worker.operations.container_spec import ours
from aima_worker.runtime import ChangeStream, Container, Status

FOLLOW_LASTS = timedelta(seconds=15)
"""How long a question keeps batches coming; whoever follows asks again within."""
SECONDS_BETWEEN_BATCHES = 0.1
SECONDS_BETWEEN_KEEPS = 2.0
RENEW_SECONDS = 600.0
"""Last lines are put down anew even unchanged, so that they neither expire nor stay lost with Redis' data."""
RECONNECT_SECONDS = 1.0
ENDS_WITHIN = timedelta(seconds=1)

_log = structlog.get_logger()


class LogCollector:
    def __init__(
        self,
        host: HostContext,
        link: LogChannel,
        *,
        follow_lasts: timedelta = FOLLOW_LASTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._link = link
        self._born = datetime.now(UTC)
        self._follow_lasts = follow_lasts
        self._clock = clock
        self._tails: dict[InstanceId, Tail] = {}
        self._there: set[InstanceId] = set()
        """Those that have a container."""
        self._lock = Lock()
        self._news = Flag()
        self._over = Flag()
        self._kept_at = self._renewed_at = float("-inf")
        self._changes: ChangeStream | None = None
        self._threads = [
            Thread(target=self._write_on, name="log writer", daemon=True),
            Thread(target=self._look_on, name="log looker", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Put down what was read, and let everything go."""
        self._over.set()
        self._news.set()
        if self._changes is not None:
            self._changes.close()
        with self._lock:
            tails = list(self._tails.values())
        for tail in tails:
            tail.close()
        for tail in tails:
            tail.join(within=ENDS_WITHIN)
        for thread in self._threads:
            thread.join(ENDS_WITHIN.total_seconds())

    def follow(self, instance: InstanceId) -> LogCursor:
        """Publish what the instance says from now on, whether or not there is a container yet."""
        with self._lock:
            if instance not in self._tails:
                self._drop_idle()
            return self._tail(instance).want()

    def ensure_tailed(self, instance: InstanceId) -> None:
        """See to it that the instance's container is read, if there is one: news of it may be on their way yet."""
        if instance not in self._there:
            try:
                self._look()
            except AimaError as away:
                _log.info("no look at the containers' logs", why=str(away))

    # Reading ------------------------------------------------------------------------------------------------------

    def _tail(self, instance: InstanceId) -> Tail:
        if instance not in self._tails:
            name, runtime = self._host.container_name(instance.service), self._host.runtime
            self._tails[instance] = Tail(
                runtime,
                name,
                watched_since=self._born,
                follow_lasts=self._follow_lasts,
                news=self._news.set,
                clock=self._clock,
            )
        return self._tails[instance]

    def _drop_idle(self) -> None:
        for instance in [id for id, tail in self._tails.items() if id not in self._there and tail.idle]:
            del self._tails[instance]

    def _look_on(self) -> None:
        """Look whenever something happens to a container. The end of the stream says only that it ended."""
        while not self._over.is_set():
            try:
                self._changes = self._host.runtime.changes(ours(self._host))
                self._look()
                for _ in self._changes:
                    if self._over.is_set():
                        return
                    self._look()
            except AimaError as away:
                _log.info("no look at the containers' logs", why=str(away))
            except Exception:  # noqa: BLE001 the boundary of the thread: a look that fails must not be the last
                _log.exception("a look at the containers' logs failed")
            self._over.wait(RECONNECT_SECONDS)

    def _look(self) -> None:
        there = self._host.runtime.containers(ours(self._host))
        found = {id: each for each in there if (id := self._instance(each)) is not None}
        with self._lock:
            if self._over.is_set():
                return
            self._there = set(found)
            for instance, container in found.items():
                self._tail(instance).attach(container)
            self._drop_idle()

    def _instance(self, container: Container) -> InstanceId | None:
        """Whose it is; None for one that has not been started yet, or that was named by hand."""
        service = container.labels.get("aima.service")
        if container.status is Status.CREATED or service is None:
            return None
        instance = ServiceId(service).on(self._host.name)
        return instance if container.name == self._host.container_name(instance.service) else None

    # Writing ------------------------------------------------------------------------------------------------------

    def _write_on(self) -> None:
        while not self._over.is_set():
            self._news.wait(SECONDS_BETWEEN_KEEPS)
            self._news.clear()
            self._write()
            self._over.wait(SECONDS_BETWEEN_BATCHES)
        self._write(at_once=True)

    def _write(self, *, at_once: bool = False) -> None:
        with self._lock:
            tails = list(self._tails.items())
        try:
            # A batch that is lost shows in the count, and its reader asks for what was in it.
            if batches := [(id, batch) for id, tail in tails if (batch := tail.take_batch())]:
                self._link.publish(batches)
            self._keep(tails, at_once=at_once)
        except BrokerUnavailable as away:
            _log.warning("log lines not told", why=str(away))
            self._over.wait(RECONNECT_SECONDS)
        except Exception:  # noqa: BLE001 the boundary of the thread: a line that cannot be told must not be the last
            _log.exception("log lines not told")

    def _keep(self, tails: list[tuple[InstanceId, Tail]], *, at_once: bool) -> None:
        now = self._clock()
        due = at_once or now - self._kept_at >= SECONDS_BETWEEN_KEEPS
        renew = now - self._renewed_at >= RENEW_SECONDS
        taking = [(id, tail) for id, tail in tails if due or tail.ended]
        last = [(id, lines) for id, tail in taking if (lines := tail.take_last(anyway=renew))]
        self._kept_at = now if due else self._kept_at
        self._renewed_at = now if renew and due else self._renewed_at
        if not last:
            return
        try:
            self._link.keep(last)
        except BrokerUnavailable:
            for _, tail in taking:
                tail.put_back_last()
            raise
