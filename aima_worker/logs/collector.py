"""Collects the logs of all containers of this host: one tail per instance, one loop that writes to Redis.

Batches of followed instances are published, changed last lines stored. While Redis is unavailable, last lines are
retried; a batch that is lost shows as a gap in the line numbers, and API nodes request its lines again.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Event, Lock

import structlog

from aima_core.domain.ids import InstanceId, ServiceId
from aima_core.errors import AimaError, BadId, BrokerUnavailable, CorruptData
from aima_core.logs.protocol import LogCursor
from aima_core.system.background import BackgroundLoop
from aima_worker.context import HostContext
from aima_worker.logs.buffer import LogBuffer
from aima_worker.logs.channel import LogChannel
from aima_worker.logs.tail import Tail
from aima_worker.operations.container_spec import ours
from aima_worker.runtime import ChangeStream, Container, Status

FOLLOW_TTL = timedelta(seconds=15)
"""API nodes renew their follows within this time."""
BATCH_INTERVAL = timedelta(seconds=0.1)
STORE_INTERVAL = timedelta(seconds=2)
RENEW_INTERVAL = timedelta(minutes=10)
"""Unchanged last lines are stored again before they expire, and after a restart of Redis without its data."""
RETRY_DELAY = timedelta(seconds=1)
CATCH_UP_TIMEOUT = timedelta(seconds=2)
STOP_TIMEOUT = timedelta(seconds=1)

_log = structlog.get_logger()


class LogCollector:
    def __init__(
        self,
        host: HostContext,
        channel: LogChannel,
        *,
        follow_ttl: timedelta = FOLLOW_TTL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = host
        self._channel = channel
        self._follow_ttl = follow_ttl
        self._clock = clock
        self._watched_since = datetime.now(UTC)
        self._tails: dict[InstanceId, Tail] = {}
        self._present: set[InstanceId] = set()
        """Instances that have a container."""
        self._lock = Lock()
        self._changes: ChangeStream | None = None
        self._stored_at = self._renewed_at = float("-inf")
        changed = Event()
        self._on_change = changed.set
        self._writer = BackgroundLoop("log writer", self._write, interval=STORE_INTERVAL, woken=changed)
        self._watcher = BackgroundLoop("log watcher", self._watch, interval=RETRY_DELAY)

    def start(self) -> None:
        self._writer.start()
        self._watcher.start()

    def stop(self) -> None:
        """Stops reading, then publishes and stores the lines read last. Raises BrokerUnavailable."""
        self._watcher.stop()
        if self._changes is not None:
            self._changes.close()
        with self._lock:
            tails = list(self._tails.values())
        for tail in tails:
            tail.close()
        for tail in tails:
            tail.join(within=STOP_TIMEOUT)
        self._watcher.stop(within=STOP_TIMEOUT)
        self._writer.stop(within=STOP_TIMEOUT)
        self._write_changes(final=True)

    def follow(self, instance: InstanceId) -> LogCursor:
        """Publishes the instance's lines until the follow expires, whether or not its container exists yet."""
        with self._lock:
            return self._tail(instance).follow()

    def join(self, instance: InstanceId) -> LogCursor | None:
        """Follows, and returns where published lines continue a log that is read afterwards; None if not known yet."""
        if instance not in self._present:  # the engine's event may still be on its way
            try:
                self._attach_all()
            except AimaError as failed:
                _log.warning("containers not listed", reason=str(failed))
        with self._lock:
            tail = self._tail(instance)
        return tail.follow() if tail.wait_caught_up(CATCH_UP_TIMEOUT) else None

    def _tail(self, instance: InstanceId) -> Tail:
        if instance not in self._tails:
            self._drop_idle()
            buffer = LogBuffer(follow_ttl=self._follow_ttl, on_change=self._on_change, clock=self._clock)
            self._tails[instance] = Tail(
                self._host.runtime,
                self._host.container_name(instance.service),
                buffer=buffer,
                watched_since=self._watched_since,
                clock=self._clock,
            )
        return self._tails[instance]

    def _drop_idle(self) -> None:
        self._tails = {id: tail for id, tail in self._tails.items() if id in self._present or not tail.idle}

    def _watch(self) -> None:
        """Attaches containers after each event of the engine, until its event stream ends."""
        self._changes = self._host.runtime.changes(ours(self._host))
        self._attach_all()
        for _ in self._changes:
            if self._watcher.stopped:
                return
            self._attach_all()

    def _attach_all(self) -> None:
        containers = self._host.runtime.containers(ours(self._host))
        found = {id: each for each in containers if (id := self._instance(each)) is not None}
        with self._lock:
            if self._watcher.stopped:
                return
            self._present = set(found)
            for instance, container in found.items():
                self._tail(instance).attach(container)
            self._drop_idle()

    def _instance(self, container: Container) -> InstanceId | None:
        """None for a container that has not started, or that was named or labelled by hand."""
        service = container.labels.get("aima.service")
        if container.status is Status.CREATED or service is None:
            return None
        try:
            instance = ServiceId(service).on(self._host.name)
        except BadId:
            return None
        return instance if container.name == self._host.container_name(instance.service) else None

    def _write(self) -> None:
        try:
            self._write_changes()
        except BrokerUnavailable:
            self._writer.sleep(RETRY_DELAY)
            raise
        self._writer.sleep(BATCH_INTERVAL)

    def _write_changes(self, *, final: bool = False) -> None:
        with self._lock:
            buffers = [(id, tail.buffer) for id, tail in self._tails.items()]
        if batches := [(id, batch) for id, buffer in buffers if (batch := buffer.take_batch())]:
            self._channel.publish(batches)
        now = self._clock()
        due = final or now - self._stored_at >= STORE_INTERVAL.total_seconds()
        renew = due and now - self._renewed_at >= RENEW_INTERVAL.total_seconds()
        self._stored_at = now if due else self._stored_at
        self._renewed_at = now if renew else self._renewed_at
        self._store([(id, buffer) for id, buffer in buffers if due or buffer.ended], renew=renew)

    def _store(self, buffers: list[tuple[InstanceId, LogBuffer]], *, renew: bool) -> None:
        last = [(id, lines) for id, buffer in buffers if (lines := buffer.take_last_lines(renew=renew))]
        if not last:
            return
        try:
            self._channel.store(last)
        except (BrokerUnavailable, CorruptData):
            for _, buffer in buffers:
                buffer.unstored = True
            raise
