"""Port leases: one holder per port, sticky per instance, released by the holder only."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import chain

import pytest

from aima_core.domain.ids import HostName, InstanceId
from aima_core.errors import NoFreePort, PortOutOfRange, PortTaken
from aima_core.redis import keys
from aima_core.redis.connection import command_link
from aima_core.store.ports import PortStore

pytestmark = pytest.mark.redis
HOST = HostName("alpha")
A, B = InstanceId("svc-tiny-a@alpha"), InstanceId("svc-tiny-b@alpha")


@pytest.fixture
def ports(redis):
    return opened(redis)


def opened(redis, last: int = 20009) -> PortStore:
    store = PortStore(redis, HOST)
    store.set_range(range(20000, last + 1))
    return store


def test_the_lowest_free_port_is_leased(ports):
    assert [ports.lease(A, fence=1), ports.lease(B, fence=2)] == [20000, 20001]


def test_the_same_instance_gets_the_same_port_again(ports):
    ports.lease(A, fence=1)
    leased = ports.lease(B, fence=2)
    ports.release(A, fence=1)
    ports.release(B, fence=2)

    again = ports.lease(B, fence=3)

    assert again == leased


def test_leasing_twice_holds_one_port(ports):
    ports.lease(A, fence=1)
    ports.lease(A, fence=2, wanted=20005)

    held = ports.all()

    assert [(lease.port, lease.holder) for lease in held] == [(20005, A)]


@pytest.mark.parametrize("unavailable", [8000, 20001])
def test_a_failed_lease_leaves_the_present_lease_unchanged(ports, unavailable):
    held = ports.lease(A, fence=1)
    ports.lease(B, fence=2)

    with pytest.raises((PortOutOfRange, PortTaken)):
        ports.lease(A, fence=3, wanted=unavailable)

    assert {lease.holder: lease.port for lease in ports.all()}[A] == held


def test_a_held_port_is_refused_with_the_holder_named(ports):
    ports.lease(A, fence=1, wanted=20003)

    with pytest.raises(PortTaken, match=A):
        ports.lease(B, fence=2, wanted=20003)


def test_a_port_outside_the_range_is_refused(ports):
    with pytest.raises(PortOutOfRange):
        ports.lease(A, fence=1, wanted=8000)


def test_a_fully_leased_range_has_no_free_port(redis):
    ports = opened(redis, last=20001)
    ports.lease(A, fence=1)
    ports.lease(B, fence=2)

    with pytest.raises(NoFreePort):
        ports.lease(InstanceId("svc-tiny-c@alpha"), fence=3)


def test_a_late_operation_does_not_move_the_lease_of_a_later_one(ports):
    port = ports.lease(A, fence=5, wanted=20004)
    ports.persist(A, port, fence=5)

    leased = ports.lease(A, fence=4, wanted=20007)

    assert leased == port
    assert [(lease.port, lease.fence, lease.until) for lease in ports.all()] == [(port, 5, None)]


def test_only_the_holder_with_a_current_fence_releases_a_port(ports):
    ports.lease(A, fence=5)

    assert not ports.release(B, fence=9)
    assert not ports.release(A, fence=4)
    assert ports.release(A, fence=5)
    assert ports.all() == []


def test_a_lease_expires_unless_its_container_runs(ports, redis):
    lent, kept = ports.lease(A, fence=1), ports.lease(B, fence=2)

    ports.persist(B, kept, fence=2)

    assert 0 < redis.pttl(f"{keys.port_prefix(HOST)}{lent}") <= keys.PORT_LEASE.total_seconds() * 1000
    assert redis.pttl(f"{keys.port_prefix(HOST)}{kept}") == -1
    assert [lease.until is None for lease in ports.all()] == [False, True]


def test_an_expired_lease_can_be_taken_again(redis):
    ports = opened(redis, last=20000)
    port = ports.lease(A, fence=1)
    with pytest.raises(NoFreePort):
        ports.lease(B, fence=2)

    let_run_out(redis, port)

    assert ports.all() == []
    assert ports.lease(B, fence=2) == port


def test_an_instance_whose_lease_expired_gets_the_same_port_again(ports, redis):
    ports.lease(A, fence=1)
    port = ports.lease(B, fence=2)
    let_run_out(redis, port)

    assert ports.lease(B, fence=3) == port


def test_a_changed_port_range_keeps_the_leases_and_drops_the_free_ports_of_the_old_one(ports, redis):
    held, lost = ports.lease(A, fence=1), ports.lease(B, fence=2)
    let_run_out(redis, lost)

    ports.set_range(range(20100, 20101))

    assert [lease.port for lease in ports.all()] == [held]
    assert ports.lease(B, fence=3) == 20100


def let_run_out(redis, port: int) -> None:
    redis.zadd(keys.ports(HOST), {str(port): time.time() * 1000 - 1})
    redis.delete(f"{keys.port_prefix(HOST)}{port}")


def test_a_port_that_another_program_uses_is_skipped_for_a_while(ports):
    bad = ports.lease(A, fence=1)

    other = ports.lease(A, fence=1, avoid=(bad, timedelta(seconds=60)))
    third = ports.lease(B, fence=2)

    assert len({bad, other, third}) == 3


def test_a_lease_that_redis_lost_is_restored_for_a_running_container(ports, redis):
    redis.flushdb()
    ports.set_range(range(20000, 20010))

    ports.persist(A, 20004, fence=7)

    assert [(lease.port, lease.holder, lease.fence) for lease in ports.all()] == [(20004, A, 7)]


def test_a_late_persist_does_not_restore_a_lease_that_a_later_operation_moved(ports):
    ports.lease(A, fence=1)
    ports.lease(A, fence=2, avoid=(20000, timedelta(minutes=1)))

    persisted = ports.persist(A, 20000, fence=1)

    assert not persisted
    assert [lease.port for lease in ports.all()] == [20001]


def test_persisting_another_port_releases_the_former_lease_of_the_instance(ports):
    ports.lease(A, fence=1)
    ports.persist(A, 20000, fence=1)

    ports.persist(A, 20005, fence=2)

    assert [lease.port for lease in ports.all()] == [20005]
    assert ports.lease(B, fence=3) == 20000


def test_a_worker_restart_releases_no_lease(ports, redis):
    held = ports.lease(A, fence=1)

    again = opened(redis)

    assert [lease.port for lease in again.all()] == [held]
    assert again.lease(B, fence=2) != held


def test_concurrent_leases_never_get_the_same_port(redis_url):
    def lease(first: int) -> list[int]:
        """As a worker each, over a connection of its own."""
        ports = opened(command_link(redis_url), 20799)
        return [ports.lease(InstanceId(f"svc-tiny-{each}@alpha"), fence=each) for each in range(first, first + 100)]

    with ThreadPoolExecutor(8) as pool:
        leased = list(pool.map(lease, range(0, 800, 100)))

    assert sorted(chain(*leased)) == list(range(20000, 20800))
