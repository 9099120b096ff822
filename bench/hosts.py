"""The cost of hosts: the Redis load of a thousand idle ones, the CPU of one worker, and a listing of all.

The thousand are workers' calls at workers' rates (`bench/fleet_load.py`); the one is a real worker (`bench/idle.py`).
"""

from __future__ import annotations

import json
import time

import redis

from aima_core.redis import keys
from bench.comparison import Bounded, Comparison, RatioAtMost, Result, size, span, take_turns
from bench.crowd import seconds_for
from bench.fleet_load import load_of
from bench.idle import idle_worker
from bench.installation import cpu_seconds, installation

ROUNDS = 5
NEEDS = ("redis",)
HOSTS = size(1000)
SETTLES_SECONDS = span(5)
LOOK_SECONDS = span(5)
IDLE_SECONDS = span(6)
"""Per round: an idle worker is rarely active."""
MOST_PERCENT = 10


def measure(rounds: int) -> list[Result]:
    with installation(hosts=HOSTS) as aima, redis.Redis.from_url(aima.redis_url) as bare:
        listed = _listed(rounds, aima.url, bare)
        with load_of(HOSTS, aima.redis_url):
            time.sleep(SETTLES_SECONDS)
            busy, rate = zip(*(_look_at(bare) for _ in range(rounds)), strict=True)
    return [
        Bounded(f"{HOSTS} idle hosts: a core of Redis", busy, "%", most=MOST_PERCENT),
        Bounded(f"{HOSTS} idle hosts: commands, those in scripts too", rate, "/s"),
        listed,
        *idle_worker(rounds * IDLE_SECONDS),
    ]


def _look_at(bare: redis.Redis) -> tuple[float, float]:
    """Percent of a core that Redis used, and commands per second, over an interval."""
    pid = int(bare.info("server")["process_id"])
    cpu, sent, began = cpu_seconds(pid), _commands(bare), time.perf_counter()
    time.sleep(LOOK_SECONDS)
    used, more, took = cpu_seconds(pid) - cpu, _commands(bare) - sent, time.perf_counter() - began
    return 100 * used / took, more / took


def _commands(bare: redis.Redis) -> int:
    return int(bare.info("stats")["total_commands_processed"])


def _listed(rounds: int, url: str, bare: redis.Redis) -> Result:
    seconds = take_turns(
        rounds,
        {"aima": lambda: seconds_for(f"{url}/v1/hosts", times=1, status=200), "HGETALL": lambda: _bare(bare)},
    )
    return Comparison(
        f"GET /v1/hosts with {HOSTS}, against HGETALL", seconds["aima"], seconds["HGETALL"], RatioAtMost(5)
    )


def _bare(bare: redis.Redis) -> float:
    began = time.perf_counter()
    found = [json.loads(text) for text in bare.hgetall(keys.HOSTS).values()]
    if len(found) != HOSTS:
        raise RuntimeError(f"{len(found)} hosts are known")
    return time.perf_counter() - began
