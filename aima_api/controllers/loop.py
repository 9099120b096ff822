"""The controller loop of an API node: redelivers operations, fails over lost hosts, fails unroutable operations.

Every node redelivers: a script hands each operation to one caller. One node per pass checks the hosts, the holder of a
lock in Redis that expires before the next pass.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta

import structlog

from aima_api.controllers.certification import HostCertifier
from aima_api.controllers.failover import Failover
from aima_api.controllers.failure_detector import VisibilityWindow, detect_lost_hosts
from aima_core.domain.hosts import Host
from aima_core.domain.operations import Kind, Operation, Phase
from aima_core.domain.units import format_duration
from aima_core.errors import AimaError, Expired, NoLiveHost
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.redis.scripts import in_ms
from aima_core.scheduling.pending import PendingReasons, redeliver
from aima_core.system.background import BackgroundLoop

CONTROLLER_INTERVAL = timedelta(seconds=5)
LEADER_TTL = 0.9 * CONTROLLER_INTERVAL

_log = structlog.get_logger()


class ControllerLoop:
    def __init__(
        self,
        redis: TextRedis,
        failover: Failover,
        certifier: HostCertifier,
        *,
        lost_after: timedelta,
        unroutable_after: timedelta,
    ) -> None:
        self._redis = redis
        self._failover = failover
        self._certifier = certifier
        allocations = failover.planner.allocations
        self._pending_reasons = PendingReasons(failover.operations, hosts=failover.hosts, allocations=allocations)
        self._lost_after = lost_after
        self._unroutable_after = unroutable_after
        self.window = VisibilityWindow(interval=CONTROLLER_INTERVAL)
        self._suspicion: str | None = None
        self._node = uuid.uuid4().hex
        self.loop = BackgroundLoop(
            "controllers",
            self.run_once,
            interval=CONTROLLER_INTERVAL,
            immediately=False,
            on_outage=lambda _: self.window.reset(),
        )

    def run_once(self) -> None:
        """Raises BrokerUnavailable."""
        redeliver(self._failover.operations, self._failover.notifier, self._pending_reasons)
        watched_for = self.window.observe()
        if self._leads():
            self._check_hosts(watched_for)

    def _leads(self) -> bool:
        if self._redis.set(keys.UPKEEP, self._node, px=in_ms(LEADER_TTL), nx=True):
            return True
        if not 0 <= self._redis.pttl(keys.UPKEEP) <= in_ms(LEADER_TTL):
            self._redis.delete(keys.UPKEEP)  # no node holds it for longer: another writer would stop all failover
        return False

    def _check_hosts(self, watched_for: timedelta) -> None:
        hosts = self._failover.hosts.all()
        loss = detect_lost_hosts(hosts, after=self._lost_after, watched_for=watched_for)
        if loss.partition_suspected != self._suspicion:
            self._suspicion = loss.partition_suspected
            _log.warning("partition suspicion changed", suspicion=loss.partition_suspected)
        for host in loss.lost:
            self._failover.fail_over(host.name)
        self._fail_overdue(hosts, watched_for=watched_for)
        self._certifier.certify(hosts)

    def _fail_overdue(self, hosts: Sequence[Host], *, watched_for: timedelta) -> None:
        """Records the routes that are served now, and fails what has expired.

        Fails what no host served, too, once this node has watched long enough.
        """
        served = {route for host in hosts if host.live for route in host.routes}
        overdue = self._failover.operations.find_overdue(served, after=self._unroutable_after)
        for operation in overdue.expired:
            self._fail(operation, Expired(expires=format_duration(_expiry_of(operation))))
        for operation in overdue.unroutable if watched_for >= self._unroutable_after else ():
            self._fail(operation, _no_live_host(operation, waited=self._unroutable_after))

    def _fail(self, operation: Operation, reason: AimaError) -> None:
        _log.warning("overdue operation failed", operation=operation.id, reason=str(reason))
        self._failover.cancellations.cancel_now(operation.id, Phase.FAILED, reason.failure)


def _expiry_of(operation: Operation) -> timedelta:
    return (operation.expires_at or operation.created_at) - operation.created_at


def _no_live_host(operation: Operation, *, waited: timedelta) -> NoLiveHost:
    routes = [f"host.{operation.host}"] if operation.host else operation.routes or [operation.route]
    remedy = "Start a worker on such a host and submit again; `api.wait_for_hosts` sets how long an operation waits."
    if operation.kind is Kind.STOP:
        remedy = "When the host is back it still stops what runs there; if it is gone for good, `aima host forget` it."
    return NoLiveHost(routes=" or ".join(routes), waited=format_duration(waited), remedy=remedy)
