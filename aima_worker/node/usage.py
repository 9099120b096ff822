"""Measures the CPU and memory of this host and of its instances, and publishes them with a TTL; in a loop of its own.

An instance is the processes below its container's first one, which the memory guard knows. Nothing is measured of
containers whose processes this worker cannot see.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from datetime import timedelta

import psutil

from aima_core.domain.hosts import HostUsage, InstanceUsage
from aima_core.domain.ids import HostName, InstanceId
from aima_core.store.hosts import HostStore
from aima_core.store.operations import now
from aima_core.system.background import BackgroundLoop
from aima_worker.runtimes.process.process_table import Process, cpu_ticks, descendants, private_memory

USAGE_INTERVAL = timedelta(seconds=5)
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class UsageReport:
    def __init__(
        self,
        host: HostName,
        hosts: HostStore,
        *,
        processes: Callable[[], Mapping[InstanceId, Process]],
        restarts: Callable[[InstanceId], int],
        interval: timedelta = USAGE_INTERVAL,
    ) -> None:
        """`processes` returns the first process of each running instance, `restarts` how often it was restarted."""
        self._host = host
        self._hosts = hosts
        self._processes = processes
        self._restarts = restarts
        self._ticks: dict[Process, tuple[float, int]] = {}
        """When each first process was last measured, and the CPU time of its instance until then."""
        self._loop = BackgroundLoop("usage", self.publish, interval=interval)

    def start(self) -> None:
        psutil.cpu_percent()  # the first call only starts the measurement
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop()

    def publish(self) -> None:
        """Raises BrokerUnavailable."""
        leaders = self._processes()
        self._ticks = {process: seen for process, seen in self._ticks.items() if process in leaders.values()}
        memory = psutil.virtual_memory()
        usage = HostUsage(
            host=self._host,
            at=now(),
            cpu=psutil.cpu_percent(),
            memory=memory.total - memory.available,
            instances={id: self._measure(id, leader) for id, leader in leaders.items()},
        )
        self._hosts.report_usage(usage)

    def _measure(self, id: InstanceId, leader: Process) -> InstanceUsage:
        processes, at = descendants(leader), time.monotonic()
        ticks = cpu_ticks(processes)
        since, before = self._ticks.get(leader, (at, ticks))
        self._ticks[leader] = at, ticks
        # The time of children that have ended is lost, so that the sum may shrink.
        cpu = max(0, ticks - before) / TICKS_PER_SECOND / (at - since) * 100 if at > since else None
        return InstanceUsage(cpu=cpu, memory=private_memory(processes), restarts=self._restarts(id))
