"""Resource leaks: many starts and stops leave no container, thread or descriptor behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import psutil
import pytest
from faults.dial import a_dial
from lab.commands import a_stop_of
from lab.desk import Desk
from lab.parts import eventually

from aima_core.domain.operations import State
from aima_core.redis.connection import RedisClient

pytestmark = [pytest.mark.docker, pytest.mark.redis, pytest.mark.slow]

ROUNDS, ROUNDS_IN_LONG_RUNS = 12, 200
SLACK = 2


def holdings(desk: Desk, redis: RedisClient) -> dict[str, int]:
    """The number of threads, descriptors and other resources, besides containers and leases."""
    own, everything = psutil.Process(), psutil.process_iter(["cmdline"])
    return {
        "threads": own.num_threads(),
        "descriptors": own.num_fds(),
        "children": len(own.children(recursive=True)),
        "processes that publish ports": sum(_publishes_ours(each.info["cmdline"] or (), desk) for each in everything),
        "keys without an end": sum(redis.ttl(key) == -1 for key in redis.keys("*")),
    }


@pytest.mark.timeout(900)
def test_many_starts_and_stops_leave_nothing_behind(
    desk: Desk, redis: RedisClient, request: pytest.FixtureRequest
) -> None:
    rounds = ROUNDS_IN_LONG_RUNS if request.config.getoption("--long") else ROUNDS
    before = holdings(desk, redis)

    ends = [desk.run_command(command) for _ in range(rounds) for command in (a_dial(), a_stop_of())]

    assert {end.operation.state for end in ends} == {State.SUCCEEDED}
    assert len({end.operation.endpoint for end in ends if end.operation.endpoint}) == 1
    assert eventually(lambda: not grown(before, holdings(desk, redis))), grown(before, holdings(desk, redis))


def grown(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    slack = {what: SLACK if what != "keys without an end" else 0 for what in after}
    return {what: (before[what], count) for what, count in after.items() if count > before[what] + slack[what]}


def _publishes_ours(command: Sequence[str], desk: Desk) -> bool:
    ports = {str(port) for port in desk.host.settings.host.ports}
    return any("docker-proxy" in word for word in command[:1]) and not ports.isdisjoint(command)
