"""A fleet drains a shared queue: every start is executed once, evenly distributed over the hosts."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from statistics import mean

import pytest
from lab.api_process import ApiProcess
from lab.fleet import Fleet, fake_hosts
from lab.parts import eventually
from lab.redis_server import RedisServer

from aima_core.redis.connection import command_link
from aima_core.store.operations import OperationStore

pytestmark = pytest.mark.redis

OF_ITS_SHARE = (0.5, 1.5)
"""Evenly: each host runs between 0.5 and 1.5 times its share of the starts.

Each host has capacity for all of them, so that only the queue distributes them.
"""
AT_REST_WITHIN = timedelta(seconds=60)


@pytest.mark.parametrize(
    ("hosts", "processes", "starts", "within"),
    [
        pytest.param(10, 2, 100, timedelta(seconds=60), id="10 hosts, 100 starts"),
        pytest.param(
            *(200, 4, 2000, timedelta(minutes=10)),
            id="200 hosts, 2,000 starts",
            marks=[pytest.mark.long, pytest.mark.timeout(1800)],
        ),
    ],
)
def test_every_start_becomes_ready_once_and_starts_are_distributed_evenly(
    own_redis: RedisServer,
    fleet: Fleet,
    api: ApiProcess,
    hosts: int,
    processes: int,
    starts: int,
    within: timedelta,
) -> None:
    services = [f"svc-fleet-{number:05d}" for number in range(starts)]
    operations = OperationStore(command_link(own_redis.url))
    fleet.up(fake_hosts(hosts), processes=processes)

    api.for_each(services, api.start)
    assert eventually(lambda: not operations.active(), within=within)
    ready = list(api.all("operations", kind="start", state="succeeded"))
    running = fleet.running()

    assert sorted(each["service"] for each in ready) == services
    assert Counter(each["phase"] for each in ready) == {"ready": starts}
    assert fleet.made() == {f"fleet.{each['service']}.{each['host']}": 1 for each in ready}
    assert sorted(name for names in running.values() for name in names) == sorted(fleet.made())
    shares = sorted(len(names) / (starts / hosts) for names in running.values())
    assert mean(shares) == 1
    assert OF_ITS_SHARE[0] <= shares[0] <= shares[-1] <= OF_ITS_SHARE[1], shares

    api.for_each(services, api.stop)

    assert eventually(lambda: not operations.active(), within=within)
    assert Counter(each["phase"] for each in api.all("operations", kind="stop")) == {"stopped": starts}
    assert eventually(lambda: not any(fleet.running().values()), within=AT_REST_WITHIN)
    assert list(api.all("ports")) == []


def test_containers_of_a_killed_process_keep_running_and_are_adopted_when_it_returns(
    own_redis: RedisServer, kept_fleet: Fleet, api: ApiProcess
) -> None:
    kept_fleet.up(fake_hosts(4), processes=2)
    operations = OperationStore(command_link(own_redis.url))
    api.for_each([f"svc-fleet-{number}" for number in range(8)], api.start)
    assert eventually(lambda: not operations.active(), within=AT_REST_WITHIN)
    before = kept_fleet.running()
    killed = kept_fleet.processes[0]

    killed.kill()
    while_felled = kept_fleet.running()
    killed.start()
    kept_fleet.until_ready()

    assert before == while_felled == kept_fleet.running()
    assert sum(kept_fleet.made().values()) == 8


def test_frozen_hosts_leave_starts_to_others_and_claim_again_when_thawed(
    own_redis: RedisServer, fleet: Fleet, api: ApiProcess
) -> None:
    fleet.up(fake_hosts(4), processes=2)
    operations = OperationStore(command_link(own_redis.url))
    frozen, others = fleet.processes

    frozen.freeze()
    api.for_each([f"svc-fleet-{number}" for number in range(40)], api.start)
    assert eventually(lambda: sum(map(len, others.running().values())) > 20, within=AT_REST_WITHIN)
    frozen.thaw()

    assert eventually(lambda: not operations.active(), within=AT_REST_WITHIN)
    assert sorted(Counter(fleet.made()).values()) == [1] * 40


def test_a_fleet_process_shuts_down_within_seconds(fleet: Fleet) -> None:
    fleet.up(fake_hosts(10), processes=1)
    (process,) = fleet.processes

    process.stop()

    assert process.ended_by == 0
