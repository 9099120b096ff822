"""Redis crash and restart, with and without its data: work continues, and engines keep running."""

from __future__ import annotations

from datetime import timedelta

import pytest
from lab.parts import eventually

from aima_core.domain.operations import State
from aima_core.redis.connection import command_link
from aima_core.store.hosts import HostStore

pytestmark = pytest.mark.redis

CONSUMES_WITHIN = timedelta(seconds=90)
"""The longest backoff between two retries is shorter."""


def test_starts_survive_a_killed_redis_and_none_is_executed_twice(a_redis, hosts_of, asked_of):
    redis = a_redis()
    fleet, asked = hosts_of(redis.url), asked_of(redis.url)
    ids = asked.starts(8)
    assert eventually(lambda: any(map(asked.has_begun, ids)))

    redis.kill()
    redis.start()

    assert asked.have_ended(ids, within=CONSUMES_WITHIN)
    assert {asked.store.get(id).state for id in ids} == {State.SUCCEEDED}
    assert {asked.store.get(id).attempt for id in ids} <= {1, 2}  # an operation cut off at its end is claimed again
    assert set(fleet.made().values()) == {1}
    assert len(fleet.made()) == len(ids)


def test_a_worker_consumes_again_soon_after_a_longer_outage(a_redis, hosts_of, asked_of):
    redis = a_redis()
    fleet, asked = hosts_of(redis.url), asked_of(redis.url)
    before = asked.starts(1)
    assert asked.have_ended(before, within=CONSUMES_WITHIN)
    running = fleet.running()

    redis.kill()
    longest = "Trying again in 5.00 seconds"
    assert eventually(lambda: longest in fleet.processes[0].log(), within=timedelta(seconds=20))
    redis.start()

    assert asked.have_ended([asked.pull()], within=timedelta(seconds=20))
    assert fleet.running() == running


def test_hosts_and_their_engines_are_registered_again_after_redis_has_lost_its_data(a_redis, hosts_of, asked_of):
    redis = a_redis(appendonly="no")
    fleet, asked = hosts_of(redis.url), asked_of(redis.url)
    assert asked.have_ended(asked.starts(2), within=CONSUMES_WITHIN)
    running = fleet.running()

    redis.kill()
    redis.start()
    link = command_link(redis.url)

    assert eventually(lambda: any(host.live for host in HostStore(link).all()), within=timedelta(seconds=60))
    assert asked.have_ended([asked.pull()], within=CONSUMES_WITHIN)
    assert fleet.running() == running
    assert set(fleet.made().values()) == {1}
    link.close()
