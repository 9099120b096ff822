"""The balancer: fewest requests in flight, slow start, passive health, and a bounded queue that is fair between keys.

An instance that fails is not used for a cool-down, a backoff that doubles with each failure; then one request probes
it. A slot is released by its context manager only: no crash or race of a request leaks a count, or releases it twice.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable
from datetime import timedelta
from enum import StrEnum
from typing import Protocol, Self

from aima_api.gateway.inference import Inference
from aima_core.errors import GatewayBusy, NoInstanceReady
from aima_core.system.engine_connections import HeaderPairs

SLOW_START = timedelta(seconds=10)
"""An instance that is new, or was cooled down, gets a growing share of the requests during this time."""
FIRST_SHARE = 0.1
FIRST_COOL_DOWN = timedelta(seconds=1)
LONGEST_COOL_DOWN = timedelta(seconds=30)
ERRORS_IN_A_ROW = 3
"""Errors of the server after which an instance cools down. A broken connection and 502 to 504 count at once."""


class Failing(StrEnum):
    """Why an instance failed a request; a label of the metric."""

    CONNECTION = "connection"
    UNAVAILABLE = "unavailable"
    """It, or a proxy before it, answered 502 to 504."""
    STATUS = "status"
    """Another error of the server, which may be due to the request."""
    FIRST_BYTE = "first byte"
    SILENCE = "silence"


class EngineTarget(Protocol):
    """The way to an instance."""

    @property
    def url(self) -> str:
        """Before the path of a request."""
        ...

    def headers(self) -> HeaderPairs:
        """Of each request."""
        ...


class Backend:
    """An instance as this gateway knows it: how to reach it, its requests in flight, and its health."""

    __slots__ = (
        "_errors",
        "cool_downs",
        "cool_until",
        "in_flight",
        "instance",
        "last_used",
        "leaving",
        "live",
        "model",
        "names",
        "own_name",
        "probing",
        "serves",
        "service",
        "since",
        "started",
        "target",
        "version",
    )

    def __init__(
        self,
        instance: str,
        target: EngineTarget,
        *,
        serves: Collection[str],
        names: Iterable[str] = (),
        model: str = "",
        version: str = "",
        since: float = float("-inf"),
    ) -> None:
        self.instance = instance
        self.service = instance.partition("@")[0]
        self.target = target
        self.serves = frozenset(serves)
        self.names = tuple(names)
        self.model = model
        self.version = version
        """Of its container: another start makes another backend."""
        self.own_name: str | None = None
        """By which an engine without `names` knows its model; None until it was asked."""
        self.live = True
        """Its host sends heartbeats; another instance is preferred otherwise."""
        self.leaving = False
        """Gets no new requests."""
        self.in_flight = 0
        self.started = 0
        """Requests sent to it so far."""
        self.last_used = 0
        self.since = since
        """When its slow start began."""
        self.cool_until = 0.0
        """0 while it is healthy."""
        self.cool_downs = 0
        """In a row."""
        self.probing = False
        self._errors = 0

    def is_usable(self, now: float) -> bool:
        """Healthy, or due for a probe that no request makes yet."""
        return not self.cool_until or (now >= self.cool_until and not self.probing)

    def load(self, now: float) -> float:
        """Requests in flight for its share: during its slow start it counts as fuller."""
        share = min(1.0, FIRST_SHARE + (now - self.since) / SLOW_START.total_seconds())
        return (self.in_flight + 1) / share

    def succeeded(self, now: float) -> None:
        self._errors = 0
        if self.cool_until:
            self.cool_until, self.cool_downs, self.since = 0.0, 0, now

    def failed(self, why: Failing, now: float) -> bool:
        """Whether it cools down now."""
        self._errors += 1
        if why is Failing.STATUS and self._errors < ERRORS_IN_A_ROW and not self.cool_until:
            return False
        if now < self.cool_until:
            return False  # requests that began before its cool-down fail together
        delay = min(FIRST_COOL_DOWN * 2 ** min(self.cool_downs, 10), LONGEST_COOL_DOWN)
        self.cool_until = now + delay.total_seconds()
        self.cool_downs += 1
        return True


class Slot:
    """A request in flight to a backend, counted until the context ends."""

    __slots__ = ("_balancer", "_probes", "backend")

    def __init__(self, balancer: Balancer, backend: Backend) -> None:
        self.backend = backend
        self._balancer = balancer
        self._probes = bool(backend.cool_until)
        backend.probing |= self._probes
        backend.in_flight += 1
        backend.started += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.backend.in_flight -= 1
        if self._probes:
            self.backend.probing = False
        self._balancer.dispatch(self.backend.service)


Pick = Callable[[], "Slot | None"]


class _Waiting:
    """The requests that wait for the instances of the same services, by key: the keys take turns."""

    def __init__(self) -> None:
        self._by_key: OrderedDict[str, deque[tuple[Pick, asyncio.Future[Slot]]]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, key: str, pick: Pick, future: asyncio.Future[Slot]) -> None:
        self._by_key.setdefault(key, deque()).append((pick, future))
        self._size += 1

    def remove(self, key: str, future: asyncio.Future[Slot]) -> None:
        waiting = self._by_key.get(key, deque())
        for entry in waiting:
            if entry[1] is future:
                waiting.remove(entry)
                self._size -= 1
                break
        if not waiting:
            self._by_key.pop(key, None)

    def evict_for(self, key: str) -> asyncio.Future[Slot] | None:
        """Removes the newest request of the key with most of them, if that has at least two more than the given one."""
        greediest = max(self._by_key.values(), key=len, default=deque())
        if len(greediest) < len(self._by_key.get(key, ())) + 2:
            return None
        self._size -= 1
        return greediest.pop()[1]

    def serve(self) -> None:
        """Gives slots in turn until no waiting request gets one."""
        refused = 0
        while self._by_key and refused < len(self._by_key):
            key, waiting = next(iter(self._by_key.items()))
            pick, future = waiting[0]
            slot = None if future.done() else pick()
            if slot is None and not future.done():
                refused += 1
                self._by_key.move_to_end(key)
                continue
            refused = 0
            waiting.popleft()
            self._size -= 1
            if slot is not None:
                future.set_result(slot)
            if waiting:
                self._by_key.move_to_end(key)
            else:
                del self._by_key[key]


class Balancer:
    def __init__(
        self, *, running: int, waiting: int, wait: timedelta, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._running = running
        self._most_waiting = waiting
        self._wait = wait.total_seconds()
        self.clock = clock
        self._uses = 0
        self._waiting: dict[tuple[str, ...], _Waiting] = {}

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def pick(self, pool: Iterable[Backend], operation: Inference, *, without: Collection[Backend] = ()) -> Slot | None:
        """A slot of the instance with the fewest requests in flight for its share; None if none can take one."""
        now, best, least = self.clock(), None, (True, 0.0, 0)
        for backend in pool:
            if (
                backend.in_flight >= self._running
                or backend.leaving
                or operation not in backend.serves
                or backend in without
                or not backend.is_usable(now)
            ):
                continue
            order = (not backend.live, backend.load(now), backend.last_used)
            if best is None or order < least:
                best, least = backend, order
        if best is None:
            return None
        self._uses += 1
        best.last_used = self._uses
        return Slot(self, best)

    async def wait(self, services: tuple[str, ...], pick: Pick, *, key: str, model: str) -> Slot:
        """Waits in the queue of these services until `pick` returns a slot. Raises GatewayBusy, NoInstanceReady."""
        queue = self._waiting.setdefault(services, _Waiting())
        future: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        try:
            if len(queue) >= self._most_waiting:
                self._make_room(queue, key, model)
            queue.add(key, pick, future)
            async with asyncio.timeout(self._wait):
                return await future
        except TimeoutError as expired:
            self._give_back(future)
            wait = f"{self._wait:g} s"
            why = f"none could take the request within {wait}"
            raise NoInstanceReady(model=model, service=services[0], why=why, wait=5) from expired
        except asyncio.CancelledError:
            self._give_back(future)
            raise
        finally:
            queue.remove(key, future)
            if not queue:
                self._waiting.pop(services, None)

    def dispatch(self, service: str | None = None) -> None:
        """Serves the queues that wait for a service; all after a change of the table or of an instance's health."""
        if self._waiting:
            for services, queue in list(self._waiting.items()):
                if service is None or service in services:
                    queue.serve()

    def _make_room(self, queue: _Waiting, key: str, model: str) -> None:
        """Raises GatewayBusy, here or in the request that yields."""
        busy = GatewayBusy(model=model, why=f"{len(queue)} requests wait for them", wait=5)
        if (evicted := queue.evict_for(key)) is None:
            raise busy
        if not evicted.done():
            evicted.set_exception(busy)

    def _give_back(self, future: asyncio.Future[Slot]) -> None:
        """Releases a slot that arrived together with the end of its request."""
        if future.done() and not future.cancelled() and future.exception() is None:
            with future.result():
                pass
