"""Memory watchdog: kills an engine that takes the host below its memory floor while it loads.

Where CPU and GPU share the memory, an engine that overcommits can hang the whole machine, and its container's limit
does not see the GPU's share. A kill that failed is retried at the next check.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Lock

import structlog

from aima_core.domain.hosts import HostFacts
from aima_core.domain.ids import InstanceId
from aima_core.domain.units import format_size
from aima_core.errors import Cancelled, ContainerExited, DockerUnavailable, EngineRefused, MemoryFloor, OutOfMemory
from aima_core.settings import HostSettings
from aima_core.system.background import BackgroundLoop
from aima_worker.attempt import ClaimLost, WorkerShutdown

KILL_TIMEOUT = timedelta(minutes=1)
FLOOR_SHARE = 1 / 2
"""Of the memory reserve, where no floor is set: so far may the reserve shrink before an engine is killed."""

_log = structlog.get_logger()


class MemoryWatchdog:
    def __init__(self, floor: int | None, available: Callable[[], int], *, interval: timedelta) -> None:
        """`floor` in bytes, None for no check; `available` returns the bytes available now."""
        self._floor = floor
        self._available = available
        self._interval = interval
        self._one_at_a_time = Lock()
        """Of several engines that load, no second one is killed before the memory of the first is free again."""

    @contextmanager
    def guarding(self, instance: InstanceId, kill: Callable[[], None]) -> Iterator[None]:
        """While inside, the instance loads. Raises MemoryFloor if it was killed."""
        if self._floor is None:
            yield
            return
        killed: list[MemoryFloor] = []
        loop = BackgroundLoop(
            f"memory of {instance}", lambda: self._check(instance, kill, loop, killed), interval=self._interval
        )
        loop.start()
        try:
            yield
        except (ContainerExited, OutOfMemory) as exited:
            if killed:
                killed[0].remember(exited.failure.log_tail)
                raise killed[0] from exited
            raise
        finally:
            loop.stop(within=KILL_TIMEOUT)
        if killed:  # race: it became ready just then
            raise killed[0]

    def _check(
        self, instance: InstanceId, kill: Callable[[], None], loop: BackgroundLoop, killed: list[MemoryFloor]
    ) -> None:
        with self._one_at_a_time:
            floor = self._floor or 0
            if loop.stopped or (available := self._available()) >= floor:
                return
            violation = MemoryFloor(
                host=instance.host, free=format_size(available), floor=format_size(floor), service=instance.service
            )
            _log.warning("loading engine killed", instance=instance, reason=str(violation))
            killed.append(violation)
            try:
                kill()
            except (DockerUnavailable, EngineRefused, Cancelled, WorkerShutdown, ClaimLost) as hindered:
                _log.warning("loading engine not killed", instance=instance, reason=repr(hindered))
                killed.clear()
            else:
                loop.stop()


def floor_of(settings: HostSettings, facts: HostFacts, *, measured: bool) -> int | None:
    """The floor in bytes; `measured` if the memory is this machine's and not the operator's setting."""
    if settings.memory_floor is not None:
        return int(settings.memory_floor)
    return int(facts.memory_reserve * FLOOR_SHARE) if facts.unified_memory and measured else None
