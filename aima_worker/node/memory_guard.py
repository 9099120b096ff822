"""Keeping what loads from overdrawing the host: below its floor of memory, the engine that loads is killed.

Where CPU and GPU share the memory, an engine that takes more than there is can hang the whole machine, and no limit
of its container sees what the GPU takes. So somebody looks, about each second, for as long as an engine loads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event as Flag
from threading import Lock, Thread

import structlog

from aima_core.domain.hosts import HostFacts
from aima_core.domain.ids import InstanceId
from aima_core.domain.units import format_size
from aima_core.errors import Cancelled, ContainerExited, DockerUnavailable, EngineRefused, MemoryFloor, OutOfMemory
from aima_core.settings import HostSettings
from aima_worker.execution.cancellation import ClaimLost, WorkerShutdown

LOOK_SECONDS = 1.0
SHARE_OF_RESERVE = 1 / 2
"""The floor where none is set: what starts leave free may shrink by so much before anything is killed for it."""

_log = structlog.get_logger()


class MemoryWatchdog:
    def __init__(self, least: int | None, available: Callable[[], int]) -> None:
        """`least` are the bytes that are to be left, None for no matter how few; `available` those that are now."""
        self._least = least
        self._available = available
        self._one_looks = Lock()
        """So that of several that load, no second one is killed for what the first has given back by then."""

    @contextmanager
    def guarding(self, instance: InstanceId, kill: Callable[[], None]) -> Iterator[None]:
        """While inside, the instance loads, and is killed where it takes the host below. Raises MemoryFloor then."""
        if self._least is None:
            yield
            return
        loaded, killed = Flag(), list[MemoryFloor]()
        watched = (instance, kill, loaded, killed)
        looking = Thread(target=self._look, args=watched, name=f"floor of {instance}", daemon=True)
        looking.start()
        try:
            yield
        except (ContainerExited, OutOfMemory) as came_of_it:
            if killed:
                killed[0].remember(came_of_it.failure.log_tail)
                raise killed[0] from came_of_it
            raise
        finally:
            loaded.set()
            looking.join()
        if killed:  # in the moment in which it was ready
            raise killed[0]

    def _look(self, instance: InstanceId, kill: Callable[[], None], loaded: Flag, killed: list[MemoryFloor]) -> None:
        while not (loaded.is_set() or killed):
            with self._one_looks:
                if (why := self._why_not(instance)) and not loaded.is_set():
                    _log.warning("killed while it loaded", instance=instance, why=str(why))
                    killed.append(why)
                    self._try_to(kill, killed)
            loaded.wait(LOOK_SECONDS)

    def _why_not(self, instance: InstanceId) -> MemoryFloor | None:
        assert self._least is not None
        if (free := self._available()) >= self._least:
            return None
        left, floor = format_size(free), format_size(self._least)
        return MemoryFloor(host=instance.host, free=left, floor=floor, service=instance.service)

    def _try_to(self, kill: Callable[[], None], killed: list[MemoryFloor]) -> None:
        try:
            kill()
        except (DockerUnavailable, EngineRefused, Cancelled, WorkerShutdown, ClaimLost) as hindered:
            _log.warning("not killed", why=repr(hindered))
            killed.clear()


def floor_of(settings: HostSettings, facts: HostFacts, *, measured: bool) -> int | None:
    """Bytes that are to be left; `measured` where the memory is this machine's, and not only said to be there."""
    if settings.memory_floor is not None:
        return int(settings.memory_floor)
    return int(facts.memory_reserve * SHARE_OF_RESERVE) if facts.unified_memory and measured else None
