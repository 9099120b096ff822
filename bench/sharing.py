"""Sharing of models by the hosts of a site: simulated seconds against those of one copy, on a real Redis.

The coordination is the product's own; the links are counted (`bench/simulated_site.py`). The ideal is one copy of the
model: over the uplink, or out of the host that has it.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from lab.redis_server import RedisServer

from aima_core.redis.connection import command_link
from aima_worker.models.pieces import PIECE_SIZE
from bench.comparison import Bounded, Comparison, RatioAtMost, Result, size
from bench.installation import own_redis
from bench.simulated_site import Links, Outcome, ideal, simulate

ROUNDS = 1
NEEDS = ("redis",)
OFFICE = Links(lan=125e6, uplink=25e6)
"""1 Gbit/s and 200 Mbit/s."""


def measure(rounds: int) -> list[Result]:
    with TemporaryDirectory(prefix="aima-bench-") as directory, own_redis(Path(directory)) as server:
        return [*_compared(server, Path(directory), rounds)]


def _compared(server: RedisServer, directory: Path, rounds: int) -> list[Result]:
    many = max(4, size(64))
    few = _outcomes(server, directory, rounds, hosts=3, pieces=36)
    crowd = _outcomes(server, directory, rounds, hosts=many, pieces=size(40))
    copies = _outcomes(server, directory, rounds, hosts=4, pieces=size(120), seeds=1)
    uplink = [each.from_origin / (36 * PIECE_SIZE) for each in few]
    return [
        _row("3 hosts, over the uplink", few, ideal(pieces=36, links=OFFICE), 1.15),
        Bounded("3 hosts, bytes over the uplink ÷ size", uplink, "", 1.02),
        _row(f"{many} hosts, over the uplink", crowd, ideal(pieces=size(40), links=OFFICE), 1.3),
        _row("3 hosts, from a fourth", copies, ideal(pieces=size(120), links=OFFICE, seeds=1), 1.3),
    ]


def _outcomes(
    server: RedisServer, directory: Path, rounds: int, *, hosts: int, pieces: int, seeds: int = 0
) -> list[Outcome]:
    found = []
    with closing(command_link(server.url)) as redis:
        for number in range(rounds):
            server.empty()
            place = directory / f"{hosts}-{pieces}-{number}"
            found.append(simulate(redis, place, hosts=hosts, pieces=pieces, links=OFFICE, seeds=seeds))
    return found


def _row(what: str, outcomes: list[Outcome], seconds: float, most: float) -> Comparison:
    return Comparison(what, [each.seconds for each in outcomes], [seconds] * len(outcomes), RatioAtMost(most))
