"""What an API node does by itself: rings again for what nobody carries out, has the work of lost hosts moved, and
gives up what no host listens for.

Any number of nodes may do so; of those that look at the hosts, one does at a time.
"""

from __future__ import annotations

import uuid
from datetime import timedelta
from threading import Event as Flag
from threading import Thread

import structlog

from aima_api.controllers.failover import Failover
from aima_api.controllers.failure_detector import VisibilityWindow, detect_lost_hosts
from aima_api.controllers.unroutable import UnroutableOperations
from aima_core.errors import BrokerUnavailable
from aima_core.queue.notifier import Notifier
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.scheduling.pending import PendingReasons
from aima_core.scheduling.redelivery import redeliver
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore

LOOK_SECONDS = 5.0

_log = structlog.get_logger()


class ControllerManager:
    def __init__(
        self,
        redis: TextRedis,
        failover: Failover,
        *,
        operations: OperationStore,
        hosts: HostStore,
        notifier: Notifier,
        pending_reasons: PendingReasons,
        unroutable: UnroutableOperations,
        lost_after: timedelta,
    ) -> None:
        self._redis = redis
        self._failover = failover
        self._operations = operations
        self._hosts = hosts
        self._notifier = notifier
        self._pending_reasons = pending_reasons
        self._unroutable = unroutable
        self._lost_after = lost_after
        self.watch = VisibilityWindow(looks_every=timedelta(seconds=LOOK_SECONDS))
        self._suspicion: str | None = None
        self._ended = Flag()
        self._node = uuid.uuid4().hex

    def start(self) -> None:
        Thread(target=self._keep_looking, name="upkeep", daemon=True).start()

    def stop(self) -> None:
        self._ended.set()

    def run_once(self) -> None:
        """Raises BrokerUnavailable."""
        redeliver(self._operations, self._notifier, self._pending_reasons)
        watched_for = self.watch.observe()
        if self._redis.set(keys.UPKEEP, self._node, px=int(LOOK_SECONDS * 900), nx=True):
            self._look_at_hosts(watched_for)

    def _look_at_hosts(self, watched_for: timedelta) -> None:
        hosts = self._hosts.all()
        loss = detect_lost_hosts(hosts, after=self._lost_after, watched_for=watched_for)
        if loss.partition_suspected != self._suspicion:
            self._suspicion = loss.partition_suspected
            _log.warning(loss.partition_suspected or "the hosts are heard of again")
        for host in loss.lost:
            self._failover.fail_over(host.name)
        self._unroutable.fail_expired(hosts, watched_for=watched_for)

    def _keep_looking(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            try:
                self.run_once()
            except BrokerUnavailable as away:
                self.watch.lose_sight()
                _log.warning("no upkeep", reason=str(away))
            except Exception:  # noqa: BLE001 the boundary of the thread: a look that fails must not be the last
                _log.exception("upkeep failed")
