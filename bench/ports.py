"""Port leases against a bare `SET NX EX`: with few and many ports leased, and with eight concurrent processes.

A lease also finds a port, preferably the previous one, and is fenced. Its release is not
counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import redis

from aima_core.domain.ids import HostName, InstanceId, ServiceId
from aima_core.redis.connection import command_link
from aima_core.store.ports import PortStore
from bench.comparison import Bounded, Comparison, RatioAtMost, Result, Turn, size, take_turns
from bench.contending import PROCESSES, Contenders, contenders
from bench.installation import own_redis

ROUNDS = 21
NEEDS = ("redis",)
HOST = HostName("bench")
PORTS = range(20000, 20000 + size(1000))
TAKEN = (0, len(PORTS) // 2, len(PORTS) - 1)
LEASES = size(200)
"""Sequentially."""
GOAL = RatioAtMost(1.3)


def measure(rounds: int) -> list[Result]:
    with TemporaryDirectory(prefix="aima-bench-") as directory, own_redis(Path(directory)) as server:
        alone = [_alone(rounds, server.url, taken) for taken in TAKEN]
        server.empty()
        return [*alone, *_contending(rounds, server.url)]


def _alone(rounds: int, redis_url: str, taken: int) -> Result:
    bare = redis.Redis.from_url(redis_url, decode_responses=True)
    bare.flushall()
    ports = PortStore(command_link(redis_url), HOST)
    ports.set_range(PORTS)
    for number in range(taken):
        holder = _instance("taken", number)
        ports.persist(holder, ports.lease(holder, fence=1), fence=1)
    numbers = count()
    seconds = take_turns(
        rounds,
        {
            "aima": _each(lambda: _instance("bench", next(numbers)), lambda who: _lease(ports, who)),
            "SET NX EX": _each(lambda: f"lease:{next(numbers)}", lambda name: _set(bare, name)),
        },
    )
    what = f"{LEASES} port leases with {taken} of {len(PORTS)} taken, against SET NX EX"
    return Comparison(what, seconds["aima"], seconds["SET NX EX"], GOAL)


def _each(name: Callable[[], str], take: Callable[[str], float]) -> Turn:
    return lambda: sum(take(name()) for _ in range(LEASES))


def _lease(ports: PortStore, who: str) -> float:
    holder = InstanceId(who)
    began = time.perf_counter()
    ports.lease(holder, fence=1)
    took = time.perf_counter() - began
    ports.release(holder, fence=1)
    return took


def _set(bare: redis.Redis, name: str) -> float:
    began = time.perf_counter()
    bare.set(name, "svc-tiny-bench@bench", nx=True, ex=120)
    took = time.perf_counter() - began
    bare.delete(name)
    return took


def _contending(rounds: int, redis_url: str) -> Iterator[Result]:
    doubled: list[float] = []
    with contenders(redis_url, HOST, PORTS) as at_once:
        seconds = take_turns(
            rounds, {"aima": lambda: _all_ports(at_once, redis_url, doubled), "SET NX EX": at_once.set_keys}
        )
    ours, theirs = seconds["aima"], seconds["SET NX EX"]
    yield Comparison(f"{len(PORTS)} port leases by {PROCESSES} processes, against SET NX EX", ours, theirs, GOAL)
    yield Bounded("port leases per second by these processes", [len(PORTS) / each for each in ours], "/s")
    yield Bounded("ports that two of them got", [sum(doubled)], "", most=0)


def _all_ports(at_once: Contenders, redis_url: str, doubled: list[float]) -> float:
    with redis.Redis.from_url(redis_url) as bare:
        bare.flushall()
    PortStore(command_link(redis_url), HOST).set_range(PORTS)
    took, ports = at_once.lease_all()
    doubled.append(len(ports) - len(set(ports)))
    return took


def _instance(what: str, number: int) -> InstanceId:
    return ServiceId(f"svc-tiny-{what}-{number}").on(HOST)
