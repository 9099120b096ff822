"""The controller loop of an API node: redelivers operations, fails over lost hosts, fails unroutable operations.

Redelivery is safe on every node at once, since a script hands each operation to one caller. For the hosts one node
leads per pass, by a lock in Redis that expires before the next pass. A pass without Redis is skipped.
"""

from __future__ import annotations

import uuid
from datetime import timedelta

import structlog

from aima_api.controllers.failover import Failover
from aima_api.controllers.failure_detector import VisibilityWindow, detect_lost_hosts
from aima_api.controllers.unroutable import UnroutableOperations
from aima_core.queue.notifier import Notifier
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.redis.scripts import in_ms
from aima_core.scheduling.pending import PendingReasons, redeliver
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore
from aima_core.system.background import BackgroundLoop

CONTROLLER_INTERVAL = timedelta(seconds=5)
LEADER_TTL = 0.9 * CONTROLLER_INTERVAL

_log = structlog.get_logger()


class ControllerLoop:
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
        self.window = VisibilityWindow(interval=CONTROLLER_INTERVAL)
        self._suspicion: str | None = None
        self._node = uuid.uuid4().hex
        self._loop = BackgroundLoop(
            "controllers",
            self.run_once,
            interval=CONTROLLER_INTERVAL,
            immediately=False,
            on_outage=lambda _: self.window.reset(),
        )

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop()

    def run_once(self) -> None:
        """Raises BrokerUnavailable."""
        redeliver(self._operations, self._notifier, self._pending_reasons)
        watched_for = self.window.observe()
        if self._redis.set(keys.UPKEEP, self._node, px=in_ms(LEADER_TTL), nx=True):
            self._check_hosts(watched_for)

    def _check_hosts(self, watched_for: timedelta) -> None:
        hosts = self._hosts.all()
        loss = detect_lost_hosts(hosts, after=self._lost_after, watched_for=watched_for)
        if loss.partition_suspected != self._suspicion:
            self._suspicion = loss.partition_suspected
            _log.warning("partition suspicion changed", suspicion=loss.partition_suspected)
        for host in loss.lost:
            self._failover.fail_over(host.name)
        self._unroutable.fail_expired(hosts, watched_for=watched_for)
