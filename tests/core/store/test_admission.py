"""Admission: a claim allocates memory, GPUs and slots atomically in Redis, or refuses."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from lab.commands import a_pull, a_start_of, a_stop_of, enqueue_signed

from aima_core.domain.catalog import Model
from aima_core.domain.ids import HostName, Route, ServiceId
from aima_core.domain.resources import Allocation, HostCapacity, ObstacleKind
from aima_core.redis import keys
from aima_core.store.allocations import AllocationStore
from aima_core.store.claims import AlreadyPlaced, Claimed, ClaimStore, InsufficientCapacity
from aima_core.store.operations import OperationStore

pytestmark = pytest.mark.redis

ALPHA, BETA = HostName("alpha"), HostName("beta")
GB = 1_000_000_000


@pytest.fixture
def store(redis):
    return OperationStore(redis)


@pytest.fixture
def claims(redis):
    return ClaimStore(redis)


@pytest.fixture
def allocations(redis):
    return AllocationStore(redis)


def room(gigabytes=10, *, available=None, gpus=(), unified=False, slots=8):
    left = (gigabytes if available is None else available) * GB
    return HostCapacity(memory=gigabytes * GB, available=left, gpus=gpus, unified=unified, slots=slots)


def a_start(store, service="svc-tiny-dial", *, gigabytes=4, gpus=None, gpu_memory=None):
    requires = {"platforms": ["linux/amd64"], "memory": f"{gigabytes}GB"}
    if gpus:
        requires |= {"accelerator": "cuda", "gpus": gpus, "gpu_memory": gpu_memory or "1GB"}
    return enqueue_signed(store, a_start_of(service, requires=requires)).id


def test_a_start_allocates_its_memory_and_a_second_that_does_not_fit_is_refused(store, claims, allocations):
    first, second = a_start(store, "svc-tiny-a", gigabytes=6), a_start(store, "svc-tiny-b", gigabytes=6)

    given = claims.claim(first, ALPHA, room(10))
    refused = claims.claim(second, ALPHA, room(10))

    assert isinstance(given, Claimed)
    assert isinstance(refused, InsufficientCapacity)
    assert refused.lack is ObstacleKind.MEMORY
    assert {service: held.memory for service, held in allocations.held(ALPHA).items()} == {"svc-tiny-a": 6 * GB}
    assert [operation.id for operation in store.list_pending()] == [second]
    assert store.get(second).host is None


def test_an_operation_that_one_host_refuses_can_be_claimed_by_another(store, claims):
    start = a_start(store, gigabytes=6)
    claims.claim(start, ALPHA, room(5))

    taken = claims.claim(start, BETA, room(10))

    assert isinstance(taken, Claimed)
    assert store.list_pending() == []


def test_concurrent_starts_never_allocate_more_than_the_capacity(store, claims, allocations):
    starts = [a_start(store, f"svc-tiny-n{number}", gigabytes=3) for number in range(12)]

    with ThreadPoolExecutor(12) as pool:
        claims = list(pool.map(lambda start: claims.claim(start, ALPHA, room(10, slots=64)), starts))

    assert sum(isinstance(claim, Claimed) for claim in claims) == 3
    assert sum(holding.memory for holding in allocations.held(ALPHA).values()) == 9 * GB


def test_released_capacity_can_be_allocated_again(store, claims, allocations):
    first, second = a_start(store, "svc-tiny-a", gigabytes=6), a_start(store, "svc-tiny-b", gigabytes=6)
    fence = claims.claim(first, ALPHA, room(10)).operation.fence

    assert not allocations.release(ALPHA, ServiceId("svc-tiny-a"), fence=fence - 1)
    assert allocations.release(ALPHA, ServiceId("svc-tiny-a"), fence=fence)

    assert isinstance(claims.claim(second, ALPHA, room(10)), Claimed)


def test_the_allocation_of_a_restarted_service_does_not_count_against_it(store, claims, allocations):
    claims.claim(a_start(store, gigabytes=6), ALPHA, room(10))

    again = claims.claim(a_start(store, gigabytes=7), ALPHA, room(10))

    assert isinstance(again, Claimed)
    assert [holding.memory for holding in allocations.held(ALPHA).values()] == [7 * GB]


def test_memory_in_use_by_other_programs_is_not_allocated(store, claims):
    refused = claims.claim(a_start(store, gigabytes=6), ALPHA, room(10, available=5))

    assert isinstance(refused, InsufficientCapacity)


def test_memory_allocated_but_not_yet_used_by_an_engine_counts_as_used(store, claims, allocations):
    claims.claim(a_start(store, "svc-tiny-a", gigabytes=4), ALPHA, room(20, available=7))
    second = a_start(store, "svc-tiny-b", gigabytes=4)

    while_it_loads = claims.claim(second, ALPHA, room(20, available=7))
    allocations.mark_loaded(ALPHA, ServiceId("svc-tiny-a"))
    once_it_has_loaded = claims.claim(second, ALPHA, room(20, available=7))

    assert isinstance(while_it_loads, InsufficientCapacity)
    assert isinstance(once_it_has_loaded, Claimed)


def test_each_engine_is_allocated_its_own_gpus(store, claims):
    has = room(100, gpus=("GPU-a", "GPU-b", "GPU-c"))

    first = claims.claim(a_start(store, "svc-tiny-a", gpus=1), ALPHA, has)
    second = claims.claim(a_start(store, "svc-tiny-b", gpus=2), ALPHA, has)
    third = claims.claim(a_start(store, "svc-tiny-c", gpus=1), ALPHA, has)

    assert first.gpus == ("GPU-a",)
    assert second.gpus == ("GPU-b", "GPU-c")
    assert third.lack is ObstacleKind.GPUS


def test_all_gpus_are_allocated_only_where_none_is_in_use(store, claims):
    has = room(100, gpus=("GPU-a", "GPU-b"))
    claims.claim(a_start(store, "svc-tiny-a", gpus=1), ALPHA, has)
    wants_all = a_start(store, "svc-tiny-b", gpus="all")

    assert claims.claim(wants_all, ALPHA, has).lack is ObstacleKind.GPUS
    assert claims.claim(wants_all, BETA, has).gpus == ("GPU-a", "GPU-b")


def test_shared_memory_of_cpu_and_gpu_is_one_pool_and_one_engine_loads_at_a_time(store, claims, allocations):
    spark = room(100, gpus=("0",), unified=True)
    first = claims.claim(a_start(store, "svc-tiny-a", gigabytes=10, gpus=1, gpu_memory="30GB"), ALPHA, spark)
    second = a_start(store, "svc-tiny-b", gigabytes=10, gpus=1, gpu_memory="30GB")

    while_it_loads = claims.claim(second, ALPHA, spark)
    allocations.mark_loaded(ALPHA, ServiceId("svc-tiny-a"))
    once_it_has_loaded = claims.claim(second, ALPHA, spark)
    allocations.mark_loaded(ALPHA, ServiceId("svc-tiny-b"))
    beyond = claims.claim(a_start(store, "svc-tiny-c", gigabytes=21), ALPHA, spark)

    assert isinstance(first, Claimed)
    assert while_it_loads.lack is ObstacleKind.LOADING
    assert once_it_has_loaded.gpus == ("0",)
    assert beyond.lack is ObstacleKind.MEMORY


def test_starts_and_pulls_need_a_slot_and_stops_do_not(store, claims):
    claims.claim(enqueue_signed(store, a_pull()).id, ALPHA, room(slots=1))
    start = a_start(store)

    refused = claims.claim(start, ALPHA, room(slots=1))
    stop = claims.claim(enqueue_signed(store, a_stop_of()).id, ALPHA, room(slots=1))

    assert refused.lack is ObstacleKind.SLOTS
    assert isinstance(stop, Claimed)


def test_a_slot_is_free_again_once_its_claim_is_released_or_expires(store, claims, redis):
    pull, next_pull, last_pull = (enqueue_signed(store, a_pull()).id for _ in range(3))
    attempt = claims.claim(pull, ALPHA, room(slots=1)).attempt
    claims.release(pull, ALPHA, attempt)
    assert isinstance(claims.claim(next_pull, ALPHA, room(slots=1)), Claimed)

    redis.zadd(keys.slots(ALPHA), {next_pull: 1})  # as if its worker had sent no heartbeat for long

    assert isinstance(claims.claim(last_pull, ALPHA, room(slots=1)), Claimed)


def test_a_drained_host_accepts_pulls_and_stops_and_no_starts(store, claims, redis):
    redis.hset(keys.DRAINED, ALPHA, "2026-01-01T00:00:00+00:00")

    assert claims.claim(a_start(store), ALPHA, room()).lack is ObstacleKind.DRAINED
    assert isinstance(claims.claim(enqueue_signed(store, a_pull()).id, ALPHA, room()), Claimed)
    assert isinstance(claims.claim(enqueue_signed(store, a_stop_of()).id, ALPHA, room()), Claimed)


def test_a_service_that_runs_on_a_drained_host_can_be_started_there_again(store, claims, redis):
    claims.claim(a_start(store), ALPHA, room())
    redis.hset(keys.DRAINED, ALPHA, "2026-01-01T00:00:00+00:00")

    assert isinstance(claims.claim(a_start(store), ALPHA, room()), Claimed)


def test_allocations_are_read_as_they_were_written():
    holding = Allocation(memory=3, gpus=("GPU-a", "GPU-b"), loading=True, fence=12)

    assert Allocation.parse(str(holding)) == holding
    assert Allocation.parse(str(Allocation(memory=0, fence=1))) == Allocation(memory=0, fence=1)


def test_lines_of_another_writer_are_no_allocations_of_a_host(allocations, redis):
    allocations.keep(ALPHA, ServiceId("svc-tiny-a"), Allocation(memory=1, fence=1))
    allocations.keep(BETA, ServiceId("svc-tiny-b"), Allocation(memory=2, fence=1, gpus=("GPU-a",)))
    redis.hset(keys.held(ALPHA), mapping={"svc-tiny-x": "1 0 1 \nsvc-tiny-y 1 0 1 ", "evil\nsvc-tiny-z": "1 0 1 "})

    found = allocations.held_on([ALPHA, BETA, HostName("gamma")])

    assert found == {
        ALPHA: {"svc-tiny-a": Allocation(memory=1, fence=1)},
        BETA: {"svc-tiny-b": Allocation(memory=2, fence=1, gpus=("GPU-a",))},
        HostName("gamma"): {},
    }


# One instance per service ------------------------------------------------------------------------------------------


def a_start_anywhere(store, service="svc-tiny-dial"):
    return enqueue_signed(store, a_start_of(service), route=Route("cpu.amd64")).id


def test_the_second_of_two_starts_on_a_class_route_goes_to_the_host_that_runs_the_service(store, claims):
    first, second = a_start_anywhere(store), a_start_anywhere(store)
    claims.claim(first, ALPHA, room())

    elsewhere = claims.claim(second, BETA, room())

    assert isinstance(elsewhere, AlreadyPlaced)
    assert (elsewhere.host, elsewhere.operation.id) == (ALPHA, second)
    assert isinstance(claims.claim(second, ALPHA, room()), Claimed)


def test_a_start_that_failed_on_one_host_can_be_claimed_by_another(store, claims, allocations):
    first, second = a_start_anywhere(store), a_start_anywhere(store)
    allocations.release(ALPHA, ServiceId("svc-tiny-dial"), fence=claims.claim(first, ALPHA, room()).operation.fence)

    assert isinstance(claims.claim(second, BETA, room()), Claimed)


def test_a_service_that_is_to_be_stopped_on_one_host_can_be_started_on_another(store, claims):
    claims.claim(a_start_anywhere(store), ALPHA, room())
    enqueue_signed(store, a_stop_of(), host=ALPHA)

    assert isinstance(claims.claim(a_start_anywhere(store), BETA, room()), Claimed)


def test_a_stop_older_than_the_start_does_not_let_another_host_claim_it(store, claims):
    enqueue_signed(store, a_stop_of(), host=ALPHA)
    claims.claim(a_start_anywhere(store), ALPHA, room())

    assert isinstance(claims.claim(a_start_anywhere(store), BETA, room()), AlreadyPlaced)


def test_a_service_with_a_pending_start_on_its_host_is_not_started_on_another(store, claims, allocations):
    fence = claims.claim(a_start_anywhere(store), ALPHA, room()).operation.fence
    allocations.release(ALPHA, ServiceId("svc-tiny-dial"), fence=fence)
    enqueue_signed(store, a_start_of(), host=ALPHA)

    assert isinstance(claims.claim(a_start_anywhere(store), BETA, room()), AlreadyPlaced)


def test_a_claim_whose_reply_was_lost_is_returned_again_unchanged(store, claims, redis, monkeypatch):
    start = a_start(store, gpus=1)
    monkeypatch.setattr("aima_core.store.claims.uuid.uuid4", lambda: UUID(int=7))

    first = claims.claim(start, ALPHA, room(100, gpus=("GPU-a", "GPU-b"), slots=1))
    again = claims.claim(start, ALPHA, room(100, gpus=("GPU-a", "GPU-b"), slots=1))

    assert (again.attempt, again.gpus) == (first.attempt, first.gpus) == (1, ("GPU-a",))


# Disk for models ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("usable", "granted"), [(None, True), (60 * GB, True), (60 * GB - 1, False), (0, False)])
def test_a_start_is_claimed_only_with_room_for_its_model(store, claims, usable, granted):
    model = Model.model_validate(
        {"name": "Big", "type": "test", "size": "60GB", "engines": ["tiny-test"], "source": "hf:maker/big@main"}
    )
    start = a_start_of("svc-tiny-big", model_mount="/models").model_copy(update={"model": model})
    asked = enqueue_signed(store, start)

    claimed = claims.claim(asked.id, ALPHA, room().model_copy(update={"model_disk": usable}))

    assert isinstance(claimed, Claimed) is granted
    if not granted:
        assert (claimed.lack, claimed.operation.id) == (ObstacleKind.DISK, asked.id)


def test_a_start_without_a_model_needs_no_room_for_one(store, claims):
    claimed = claims.claim(a_start(store), ALPHA, room().model_copy(update={"model_disk": 0}))

    assert isinstance(claimed, Claimed)
