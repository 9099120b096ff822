"""Memory guard: kills an engine before the host runs out of memory, while engines load and while they serve.

Where CPU and GPU share the memory, an engine that overcommits can hang the whole machine, and its container's limit
does not see the GPU's share. Below the reserve the host takes no starts. Below the floor, or below the reserve while
tasks stall for memory, the guard kills one engine, and keeps the reason until the reconciler has recorded it. It needs
neither Redis nor, as root, a Docker Engine that answers. A kill that failed is retried at the next check.
"""

import re
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import structlog

from aima_core.domain.hosts import HostFacts
from aima_core.domain.ids import InstanceId
from aima_core.domain.units import format_duration, format_size
from aima_core.errors import Cancelled, DockerUnavailable, EngineRefused, MemoryFloor
from aima_core.settings import HostSettings
from aima_core.store.operations import now
from aima_core.system.background import BackgroundLoop
from aima_worker.attempt import ClaimLost, WorkerShutdown
from aima_worker.node.guarding import Series, Violations
from aima_worker.runtime import Container
from aima_worker.runtimes.process.process_table import Process, descendants, private_memory

UNIFIED_FLOOR, HOST_FLOOR = 1 / 2, 1 / 4
"""Of the reserve, where no floor is set: with memory that CPU and GPU share, and with GPUs that have their own."""
NEAR = 2
"""Times the reserve: with less memory available it is read every NEAR_INTERVAL."""
NEAR_INTERVAL = timedelta(seconds=0.1)
MEASURE_INTERVAL = timedelta(seconds=1)
GROWTH_WINDOW = timedelta(seconds=10)
LEAST_GROWTH = 1 / 100
"""Of the floor."""
SETTLE_TIMEOUT = timedelta(seconds=2)
"""After a kill: the kernel takes a while to free the memory of a large process."""
STALL_WINDOW, MOST_STALLED = timedelta(seconds=2), 1 / 4
"""Share of the time in which every task waited for memory: the `full` line of /proc/pressure/memory."""
RESUME = 1.1
"""Times the reserve: starts are taken again."""
_STALL_TOTAL = re.compile(r"^full .*total=(\d+)", re.MULTILINE)
_AVAILABLE = re.compile(r"^MemAvailable:\s+(\d+) kB", re.MULTILINE)
CANNOT_KILL = (DockerUnavailable, EngineRefused, Cancelled, WorkerShutdown, ClaimLost, PermissionError)

_log = structlog.get_logger()


class MemoryReading(NamedTuple):
    at: float
    """Monotonic seconds."""
    available: int
    """Bytes that the kernel can give without swapping; of CPU and GPU where they share memory."""
    stalled: timedelta = timedelta()
    """For how long all tasks have waited for memory at once, since boot."""


class MemoryLevels(NamedTuple):
    """Bytes available below which the guard acts."""

    reserve: int
    floor: int


def read_memory(meminfo: Path = Path("/proc/meminfo"), pressure: Path = Path("/proc/pressure/memory")) -> MemoryReading:
    """A kernel without pressure stall information has never stalled."""
    available = _AVAILABLE.search(meminfo.read_text())
    assert available is not None, f"{meminfo} names no MemAvailable"
    try:
        total = _STALL_TOTAL.search(pressure.read_text())
    except OSError:
        total = None
    stalled = timedelta(microseconds=int(total[1]) if total else 0)
    return MemoryReading(time.monotonic(), int(available[1]) * 1024, stalled)


def levels_of(settings: HostSettings, facts: HostFacts, *, measured: bool) -> MemoryLevels | None:
    """None for no guard; `measured` if the memory is this machine's and not the operator's setting."""
    share = UNIFIED_FLOOR if facts.unified_memory else HOST_FLOOR
    if settings.memory_floor is None and not measured:
        return None
    floor = int(facts.memory_reserve * share) if settings.memory_floor is None else int(settings.memory_floor)
    return MemoryLevels(reserve=max(floor, facts.memory_reserve if measured else 0), floor=floor)


@dataclass(eq=False)
class _Engine:
    id: InstanceId
    started_at: datetime
    container: str | None = None
    process: Process | None = None
    """Its first process, if this worker can see it."""
    kill: Callable[[], None] | None = None
    """While it loads."""
    priority: int = 0
    memory: deque[tuple[float, int]] = field(
        default_factory=lambda: deque(maxlen=int(GROWTH_WINDOW / MEASURE_INTERVAL))
    )

    def measure(self, at: float) -> None:
        if self.process is not None:
            self.memory.append((at, private_memory(descendants(self.process))))

    def growth(self, since: float) -> int:
        """Bytes of its own; memory of a GPU does not show in its processes."""
        recent = [memory for at, memory in self.memory if at >= since]
        return max(0, recent[-1] - min(recent)) if recent else 0


class MemoryGuard:
    def __init__(
        self,
        levels: MemoryLevels | None,
        read: Callable[[], MemoryReading],
        *,
        violations: Violations,
        interval: timedelta,
    ) -> None:
        """Without levels, it only observes."""
        self.low: int | None = None
        """Bytes available while the host takes no starts, since they are less than its reserve."""
        self._levels = levels
        self._read = read
        self._interval = interval
        self._series = Series[MemoryReading]()
        self._engines: dict[InstanceId, _Engine] = {}
        self._violations = violations
        self._lock = Lock()
        """Of the engines: start operations, the reconciler and the guard's loop use them."""
        self._measure_due = self._settled_at = 0.0
        self._is_near = False
        self._remove: Callable[[InstanceId, str], tuple[str, ...]] = lambda *_: ()
        self._low_changed: Callable[[], None] = lambda: None
        self._killed: Callable[[], None] = lambda: None
        self._loop = BackgroundLoop("memory guard", self.check, interval=self._delay)

    def start(
        self,
        *,
        remove: Callable[[InstanceId, str], tuple[str, ...]],
        low_changed: Callable[[], None],
        killed: Callable[[], None],
    ) -> None:
        """`remove` kills the container of that id and returns its last log lines; `killed` has a reason recorded."""
        self._remove, self._low_changed, self._killed = remove, low_changed, killed
        if self._levels is not None:
            self._loop.start()

    def stop(self) -> None:
        self._loop.stop(within=SETTLE_TIMEOUT)

    def observe(
        self,
        running: Mapping[InstanceId, Container],
        inspect: Callable[[str], Container | None],
        priorities: Mapping[InstanceId, int],
    ) -> None:
        """The running containers; `inspect` returns one by its name, with its first process."""
        with self._lock:
            known = {engine.container for engine in self._engines.values()}
        details = {each.id: inspect(each.name) for each in running.values() if each.id not in known}
        with self._lock:
            for id, engine in list(self._engines.items()):
                if engine.kill is None and (id not in running or running[id].id != engine.container):
                    del self._engines[id]
            for id, container in running.items():
                if found := details.get(container.id):
                    loading = self._engines.get(id)
                    kill = loading.kill if loading else None
                    self._engines[id] = _of(id, found, kill=kill, priority=priorities[id])
            for engine in self._engines.values():
                engine.measure(time.monotonic())

    def processes(self) -> dict[InstanceId, Process]:
        """The first process of each instance whose processes this worker can see."""
        with self._lock:
            return {id: engine.process for id, engine in self._engines.items() if engine.process}

    @contextmanager
    def guarding(
        self,
        instance: InstanceId,
        *,
        kill: Callable[[], None],
        inspect: Callable[[], Container | None],
        priority: int = 0,
    ) -> Iterator[None]:
        """While inside, the instance loads."""
        container = inspect() if self._levels is not None else None
        with self._lock:
            self._engines[instance] = _of(instance, container, kill=kill, priority=priority)
        try:
            yield
        finally:
            with self._lock:  # it waits for a kill under way
                if engine := self._engines.get(instance):
                    engine.kill = None

    def check(self) -> None:
        assert self._levels is not None
        reading = self._read()
        self._series.add(reading)
        self._is_near = reading.available < NEAR * self._levels.reserve
        self._update_low(reading, self._levels.reserve)
        with self._lock:
            if self._is_near and reading.at >= self._measure_due:
                self._measure(reading.at)
            stalled = self._stalled(reading)
            short = reading.available < self._levels.floor
            if (short or (self.low is not None and stalled > MOST_STALLED)) and reading.at >= self._settled_at:
                self._relieve(reading, self._levels, stalled)

    def _delay(self) -> timedelta:
        return min(NEAR_INTERVAL, self._interval) if self._is_near else self._interval

    def _measure(self, at: float) -> None:
        self._measure_due = at + MEASURE_INTERVAL.total_seconds()
        for engine in self._engines.values():
            engine.measure(at)

    def _update_low(self, reading: MemoryReading, reserve: int) -> None:
        was_low = self.low is not None
        is_low = reading.available < reserve * (RESUME if was_low else 1)
        self.low = reading.available if is_low else None
        if is_low is not was_low:
            _log.warning("memory below its reserve" if is_low else "memory above its reserve", left=reading.available)
            self._low_changed()

    def _stalled(self, reading: MemoryReading) -> float:
        """The share of the last STALL_WINDOW in which all tasks waited for memory."""
        before = self._series.before(reading, STALL_WINDOW)
        return (reading.stalled - before.stalled).total_seconds() / (reading.at - before.at) if before else 0.0

    def _relieve(self, reading: MemoryReading, levels: MemoryLevels, stalled: float) -> None:
        self._measure(reading.at)
        if not self._engines:
            return
        engine, why = self._victim(reading, levels)
        violation = self._violation(engine, reading, levels, stalled, why)
        self._violations.record(engine.id, violation)  # before the kill, so that the reconciler restarts nothing
        _log.warning("engine killed for memory", instance=engine.id, reason=str(violation))
        try:
            violation.remember(self._kill(engine))
        except CANNOT_KILL as hindered:
            _log.warning("engine not killed", instance=engine.id, reason=repr(hindered))
            self._violations.discard(engine.id)
        else:
            del self._engines[engine.id]
            self._killed()
        self._settled_at = time.monotonic() + SETTLE_TIMEOUT.total_seconds()

    def _victim(self, reading: MemoryReading, levels: MemoryLevels) -> tuple[_Engine, str]:
        """The engine that grew most, if that explains at least half of what was lost, whatever its priority: neighbours
        serve on. Else, of the engines of the lowest priority, the one started last."""
        since = reading.at - GROWTH_WINDOW.total_seconds()
        lost = self._series.lost(reading, GROWTH_WINDOW)
        engine = max(self._engines.values(), key=lambda each: (each.growth(since), each.started_at))
        if (grown := engine.growth(since)) >= max(lost / 2, levels.floor * LEAST_GROWTH):
            return engine, f"It grew most, by {format_size(grown)} in {format_duration(GROWTH_WINDOW)}."
        priorities = {each.priority for each in self._engines.values()}
        lowest = [each for each in self._engines.values() if each.priority == min(priorities)]
        why = "It was started last" + (", of those with the lowest priority." if len(priorities) > 1 else ".")
        return max(lowest, key=lambda each: each.started_at), why

    def _violation(
        self, engine: _Engine, reading: MemoryReading, levels: MemoryLevels, stalled: float, why: str
    ) -> MemoryFloor:
        below_floor = reading.available < levels.floor
        level, size = ("floor", levels.floor) if below_floor else ("reserve", levels.reserve)
        return MemoryFloor(
            service=engine.id.service,
            when="loaded" if engine.kill else "served",
            host=engine.id.host,
            free=format_size(reading.available),
            level=f"{level} of {format_size(size)}",
            stalls="" if stalled < MOST_STALLED else f" (all tasks waited for memory {stalled:.0%} of the time)",
            why=why,
            series=self._series.quoted(reading),
        )

    def _kill(self, engine: _Engine) -> tuple[str, ...]:
        """By a signal where that is possible: a container engine may stall as well. Returns log lines that are lost."""
        if engine.process is not None:
            engine.process.send(signal.SIGKILL)
        elif engine.kill is not None:
            engine.kill()
        elif engine.container is not None:
            return self._remove(engine.id, engine.container)
        return ()  # it was not listed yet: the reconciler removes it


def _of(id: InstanceId, container: Container | None, *, kill: Callable[[], None] | None, priority: int) -> _Engine:
    if container is None:
        return _Engine(id, now(), kill=kill, priority=priority)
    process = None
    if container.pid is not None:
        with suppress(ProcessLookupError):  # race: it has exited
            process = Process.of(container.pid)
    engine = _Engine(id, container.started_at or now(), container.id, process, kill, priority)
    engine.measure(time.monotonic())
    return engine
