"""Contention: eight processes that lease ports, or set keys, concurrently."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from typing import Any

import redis

from aima_core.domain.ids import HostName, ServiceId
from aima_core.redis.connection import command_link
from aima_core.store.ports import PortStore
from aima_core.system.die_with_parent import die_with_parent

PROCESSES = 8
MEET_WITHIN_SECONDS = 60


class Contenders:
    def __init__(self, pool: ProcessPoolExecutor, each: int) -> None:
        self._pool = pool
        self._each = each

    def lease_all(self) -> tuple[float, list[int]]:
        """Seconds from the first lease to the last, and the leased ports."""
        return self._together(_lease)

    def set_keys(self) -> float:
        """Seconds for the same number of `SET NX EX`."""
        return self._together(_set)[0]

    def _together(self, work: Callable[[int, int], Any]) -> tuple[float, list[int]]:
        done = list(self._pool.map(work, range(PROCESSES), [self._each] * PROCESSES))
        began, ended, ports = zip(*done, strict=True)
        return max(ended) - min(began), [port for each in ports for port in each]


@contextmanager
def contenders(redis_url: str, host: HostName, ports: range) -> Iterator[Contenders]:
    """They lease all ports."""
    context = get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    with ProcessPoolExecutor(
        PROCESSES, mp_context=context, initializer=_prepare, initargs=(os.getpid(), barrier, redis_url, host, ports)
    ) as pool:
        yield Contenders(pool, len(ports) // PROCESSES)


# In each of the processes ------------------------------------------------------------------------------------------

_here: dict[str, Any] = {}


def _prepare(parent: int, barrier: Barrier, redis_url: str, host: HostName, ports: range) -> None:
    die_with_parent(signal.SIGKILL, parent)
    store = PortStore(command_link(redis_url), host)
    store.set_range(ports)
    bare = redis.Redis.from_url(redis_url, decode_responses=True)
    _here.update(barrier=barrier, store=store, bare=bare, host=host)


def _lease(number: int, times: int) -> tuple[float, float, list[int]]:
    store: PortStore = _here["store"]
    holders = [ServiceId(f"svc-tiny-{number}-{each}").on(_here["host"]) for each in range(times)]
    _here["barrier"].wait(MEET_WITHIN_SECONDS)
    began = time.perf_counter()
    ports = [store.lease(holder, fence=1) for holder in holders]
    return began, time.perf_counter(), ports


def _set(number: int, times: int) -> tuple[float, float, list[int]]:
    bare: redis.Redis = _here["bare"]
    names = [f"lease:{number}:{each}:{time.monotonic_ns()}" for each in range(times)]
    _here["barrier"].wait(MEET_WITHIN_SECONDS)
    began = time.perf_counter()
    for name in names:
        bare.set(name, "svc-tiny-bench@bench", nx=True, ex=120)
    return began, time.perf_counter(), []
