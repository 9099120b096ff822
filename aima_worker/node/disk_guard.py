"""Disk guard: kills the engine that writes most before the disk of the Docker Engine is full.

A full disk harms every engine of the host: none can be started, and databases and logs break. Quotas exist with few
storage drivers only, so the guard polls the free space. Below the reserve the host takes no starts. Below the floor it
removes the container whose file system grew most, or is largest, which frees the space at once; its reason is kept
until the reconciler has recorded it. A kill that failed is retried at the next check.
"""

import os
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import NamedTuple

import structlog

from aima_core.domain.ids import InstanceId
from aima_core.domain.units import format_duration, format_size
from aima_core.errors import DiskFloor, DockerUnavailable, EngineRefused
from aima_core.settings import HostSettings
from aima_core.system.background import BackgroundLoop
from aima_worker.node.guarding import Series, Violations
from aima_worker.runtime import Container, ContainerRuntime

RESERVE, MOST_RESERVE = 1 / 20, 10_000_000_000
"""Of the disk, and in bytes, where no reserve is set."""
FLOOR = 1 / 2
"""Of the reserve, where no floor is set."""
NEAR = 2
"""Times the reserve: with less free, the engines' file systems are measured."""
MEASURE_INTERVAL = timedelta(seconds=10)
"""Measuring walks through the files of every container."""
GROWTH_WINDOW = timedelta(seconds=60)
LEAST_WRITTEN = 1 / 4
"""Of the floor: an engine that has written less is not the cause, a pull or another program is."""
SETTLE_TIMEOUT = timedelta(seconds=2)
"""After a kill: the storage driver takes a while to delete the files."""
RESUME = 1.1
"""Times the reserve: starts are taken again."""
DISKS_INTERVAL = timedelta(minutes=5)
"""How long the directories of a Docker Engine are cached."""

_log = structlog.get_logger()


class DiskReading(NamedTuple):
    at: float
    """Monotonic seconds."""
    available: int
    """Bytes free to programs."""
    total: int


class DiskLevels(NamedTuple):
    """Bytes free below which the guard acts."""

    reserve: int
    floor: int


class EngineDisk:
    """The fullest disk of a Docker Engine on this machine; its directories are cached, since asking is a call."""

    def __init__(self, runtime: ContainerRuntime) -> None:
        self._runtime = runtime
        self._disks: tuple[str, ...] = ()
        self._due = 0.0

    def __call__(self) -> DiskReading | None:
        """None without such a disk, and while the Docker Engine has not answered yet."""
        now = time.monotonic()
        if now >= self._due:
            try:
                self._disks = self._runtime.facts().disks
                self._due = now + DISKS_INTERVAL.total_seconds()
            except (DockerUnavailable, EngineRefused):
                self._due = now + MEASURE_INTERVAL.total_seconds()
        usages = map(os.statvfs, self._disks)
        readings = [DiskReading(now, each.f_bavail * each.f_frsize, each.f_blocks * each.f_frsize) for each in usages]
        return min(readings, key=lambda each: each.available, default=None)


def disk_levels(settings: HostSettings, total: int) -> DiskLevels:
    reserve = int(min(total * RESERVE, MOST_RESERVE)) if settings.disk_reserve is None else int(settings.disk_reserve)
    floor = int(reserve * FLOOR) if settings.disk_floor is None else int(settings.disk_floor)
    return DiskLevels(max(reserve, floor), floor)


class DiskGuard:
    def __init__(
        self,
        settings: HostSettings,
        read: Callable[[], DiskReading | None],
        *,
        violations: Violations,
        interval: timedelta,
    ) -> None:
        self.low: DiskReading | None = None
        """Set while the host takes no starts."""
        self.levels = DiskLevels(0, 0)
        """Of the last reading."""
        self._settings = settings
        self._read = read
        self._violations = violations
        self._series = Series[DiskReading]()
        self._written: dict[InstanceId, Series[DiskReading]] = {}
        self._measure_due = self._settled_at = 0.0
        self._measure: Callable[[], Mapping[InstanceId, Container]] = dict
        self._remove: Callable[[InstanceId, str], tuple[str, ...]] = lambda *_: ()
        self._low_changed: Callable[[], None] = lambda: None
        self._killed: Callable[[], None] = lambda: None
        self._loop = BackgroundLoop("disk guard", self.check, interval=interval)

    def start(
        self,
        *,
        measure: Callable[[], Mapping[InstanceId, Container]],
        remove: Callable[[InstanceId, str], tuple[str, ...]],
        low_changed: Callable[[], None],
        killed: Callable[[], None],
    ) -> None:
        """`measure` returns the running containers with what they have written; the others as for the memory guard."""
        self._measure, self._remove, self._low_changed, self._killed = measure, remove, low_changed, killed
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop(within=SETTLE_TIMEOUT)

    def check(self) -> None:
        if (reading := self._read()) is None:
            return
        self.levels = disk_levels(self._settings, reading.total)
        self._series.add(reading)
        self._update_low(reading)
        try:
            if reading.available < self.levels.floor and reading.at >= self._settled_at:
                self._relieve(reading, self._sizes(reading))
            elif reading.available < NEAR * self.levels.reserve and reading.at >= self._measure_due:
                self._sizes(reading)
        except (DockerUnavailable, EngineRefused) as hindered:
            _log.warning("engines' disks not measured", reason=repr(hindered))

    def _update_low(self, reading: DiskReading) -> None:
        was_low = self.low is not None
        is_low = reading.available < self.levels.reserve * (RESUME if was_low else 1)
        self.low = reading if is_low else None
        if is_low is not was_low:
            _log.warning("disk below its reserve" if is_low else "disk above its reserve", left=reading.available)
            self._low_changed()

    def _sizes(self, reading: DiskReading) -> Mapping[InstanceId, Container]:
        running = self._measure()
        self._measure_due = time.monotonic() + MEASURE_INTERVAL.total_seconds()
        self._written = {id: self._written.get(id, Series[DiskReading]()) for id in running}
        for id, container in running.items():
            self._written[id].add(DiskReading(reading.at, -(container.written or 0), 0))
        return running

    def _growth(self, id: InstanceId, container: Container, at: float) -> int:
        return self._written[id].lost(DiskReading(at, -(container.written or 0), 0), GROWTH_WINDOW)

    def _relieve(self, reading: DiskReading, running: Mapping[InstanceId, Container]) -> None:
        sizes = {id: (self._growth(id, each, reading.at), each.written or 0) for id, each in running.items()}
        causes = {id: size for id, size in sizes.items() if size[1] >= self.levels.floor * LEAST_WRITTEN}
        if not causes:
            return  # images, logs of other programs: killing an engine would free nothing
        id = max(causes, key=lambda each: causes[each])
        violation = self._violation(id, reading, *causes[id])
        self._violations.record(id, violation)  # before the kill, so that the reconciler restarts nothing
        _log.warning("engine killed for disk", instance=id, reason=str(violation))
        try:
            violation.remember(self._remove(id, running[id].id))
        except (DockerUnavailable, EngineRefused) as hindered:
            _log.warning("engine not killed", instance=id, reason=repr(hindered))
            self._violations.discard(id)
        else:
            self._killed()
        self._settled_at = time.monotonic() + SETTLE_TIMEOUT.total_seconds()

    def _violation(self, id: InstanceId, reading: DiskReading, grown: int, written: int) -> DiskFloor:
        why = f"It had written most, {format_size(written)}"
        if grown:
            why += f", of that {format_size(grown)} in the last {format_duration(GROWTH_WINDOW)}"
        return DiskFloor(
            service=id.service,
            host=id.host,
            free=format_size(reading.available),
            floor=format_size(self.levels.floor),
            why=f"{why}.",
            series=self._series.quoted(reading),
        )
