"""Recovery after SIGKILL of a worker during a start: the time until the service is ready, and its parts.

Complete workers on a fake runtime whose containers outlive them; loading takes a second. In one case the worker is
restarted at once by its supervisor. In the other it stays down, and another host claims the start: that
depends on lease expiry, and one round suffices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lab.api_process import ApiProcess, api_process
from lab.fleet import FakeHost, Fleet, fleet_on
from lab.parts import eventually

from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Operation, Phase
from aima_core.redis.connection import command_link
from aima_core.store.operations import OperationStore
from bench.comparison import Bounded, Result
from bench.installation import own_redis

ROUNDS = 3
NEEDS = ("redis",)
SERVICE = "svc-tiny-dial"
LOADS_FOR = timedelta(seconds=1)
RECOVERS_WITHIN = timedelta(seconds=180)
COMES_BACK_MOST = 20
"""The bound in seconds for `kill -9` of a worker during a start."""
_IMAGE: dict[str, Any] = {"images": ("aima/dial:1",), "engines": ("aima/dial:1",)}


@dataclass(frozen=True)
class _Recovery:
    seconds: float
    waited: float
    """The seconds of these until leases expire."""

    @property
    def share(self) -> float:
        return 100 * self.waited / self.seconds


def measure(rounds: int) -> list[Result]:
    with _site() as site:
        back = [_comes_back(*site) for _ in range(rounds)]
    with _site() as site:
        away = [_stays_away(*site)]
    return [
        *_told("worker killed in a start, and back at once", back, most=COMES_BACK_MOST),
        *_told("worker killed in a start, and another host's goes on", away, most=None),
    ]


def _told(what: str, recoveries: list[_Recovery], *, most: float | None) -> Iterator[Result]:
    yield Bounded(f"{what}: ready after", [each.seconds for each in recoveries], "s", most=most)
    yield Bounded(f"{what}: of it waiting for leases", [each.share for each in recoveries], "%")


@contextmanager
def _site() -> Iterator[tuple[ApiProcess, Fleet, OperationStore]]:
    with TemporaryDirectory(prefix="aima-bench-") as name, own_redis(Path(name)) as redis:
        directory = Path(name)
        with api_process(redis.url, directory) as api, fleet_on(redis.url, directory, kept=True) as fleet:
            yield api, fleet, OperationStore(command_link(redis.url))


def _comes_back(api: ApiProcess, fleet: Fleet, operations: OperationStore) -> _Recovery:
    if not fleet.processes:
        fleet.up([FakeHost("one", loads_for=LOADS_FOR, **_IMAGE)], processes=1)
    (process,) = fleet.processes
    begun = _start_that_loads(api, operations)
    process.kill()
    killed = time.monotonic()
    process.start()
    process.ask("ready")  # created; the start-up time of a program is not waiting time
    made = time.monotonic()
    claimed = _when(operations, begun.id, lambda now: now.attempt > begun.attempt)
    ready = _when(operations, begun.id, lambda now: now.phase is Phase.READY)
    fleet.until_ready()
    _stop(api, operations)
    return _Recovery(ready - killed, max(0.0, claimed - made))


def _stays_away(api: ApiProcess, fleet: Fleet, operations: OperationStore) -> _Recovery:
    fleet.up([FakeHost("lost", loads_for=timedelta(minutes=5), **_IMAGE)], processes=1)
    begun = _start_that_loads(api, operations)
    fleet.up([FakeHost("other", loads_for=LOADS_FOR, **_IMAGE)], processes=1)
    fleet.process_of("lost").kill()
    killed = time.monotonic()
    claimed = _when(operations, begun.id, lambda now: now.attempt > begun.attempt)
    ready = _when(operations, begun.id, lambda now: now.phase is Phase.READY)
    return _Recovery(ready - killed, claimed - killed)


def _start_that_loads(api: ApiProcess, operations: OperationStore) -> Operation:
    (started,) = api.start(SERVICE)
    id = OperationId(started["id"])
    _when(operations, id, lambda now: now.phase is Phase.LOADING)
    return operations.get(id)


def _stop(api: ApiProcess, operations: OperationStore) -> None:
    (stopping,) = api.stop(SERVICE, grace="1s")
    _when(operations, OperationId(stopping["id"]), lambda now: now.state.ended)


def _when(operations: OperationStore, id: OperationId, fact: Callable[[Operation], bool]) -> float:
    """The time at which `fact` became true."""
    if not eventually(lambda: fact(operations.get(id)), within=RECOVERS_WITHIN):
        raise RuntimeError(f"it does not come to that: {operations.get(id)}")
    return time.monotonic()
