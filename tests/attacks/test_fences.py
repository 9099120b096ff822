"""A writer in Redis forges fences; API nodes and hosts recover by their own clocks, and hosts by their own memory."""

from __future__ import annotations

import json

import pytest
import structlog
from api.node import api_node
from lab.attacker import RedisWriter, a_host
from lab.commands import a_start_of, a_stop_of, enqueue_signed

from aima_core.domain.ids import HostName, ServiceId
from aima_core.domain.operations import Phase, State
from aima_core.redis import keys
from aima_core.store.operations import OperationStore
from aima_core.trust.orders import clock_ms, highest_fence
from aima_core.trust.records import SignedRecord
from aima_worker.execution import fences
from aima_worker.execution.fences import FenceMemory
from aima_worker.node.facts import host_facts

pytestmark = pytest.mark.redis

SERVICE = ServiceId("svc-tiny-dial")
BEYOND = str(2**53)


@pytest.fixture
def attacker(redis):
    return RedisWriter(redis)


@pytest.fixture
def alpha(redis, tmp_path):
    with a_host(redis, tmp_path, "alpha") as host:
        yield host


@pytest.fixture
def store(redis):
    return OperationStore(redis)


# The counter ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forged", [BEYOND, "1e300", "inf", "nan", "-7", "high", ""])
def test_api_nodes_discard_a_forged_counter_and_report_it(store, redis, forged):
    redis.set(keys.FENCE, forged)

    with structlog.testing.capture_logs() as logged:
        first, second = store.reserve_fences(3), store.reserve_fences(1)

    assert clock_ms() - 60_000 < first < highest_fence()
    assert second >= first + 3
    assert [entry["event"] for entry in logged] == ["last fence discarded"]


def test_api_nodes_replace_a_counter_of_another_type(store, redis):
    redis.lpush(keys.FENCE, "1")

    assert store.reserve_fences(1) < store.reserve_fences(1) < highest_fence()


def test_fences_ascend_although_redis_loses_its_data(store, redis):
    reserved = []
    for _ in range(3):
        reserved.append(store.reserve_fences(10))
        redis.flushall()
        before = clock_ms()
        while clock_ms() < before + 10:
            pass

    assert reserved == sorted(set(reserved))


def test_services_start_while_the_counter_is_forged_again_and_again(redis_url, redis, alpha):
    with api_node(redis_url) as node:
        alpha.host.hosts.announce(host_facts(alpha.host.settings, alpha.host.runtime))
        alpha.host.hosts.join(alpha.host.name, identity="alpha", session="one")
        for _ in range(3):
            redis.set(keys.FENCE, BEYOND)
            [start] = node.start("svc-tiny-dial", model="Dial", hosts=["alpha"])

            assert start["fence"] < highest_fence()
            assert node.operation(start["id"])["state"] == "queued"


# The records of instances -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["host", "class"])
def test_a_forged_fence_of_an_instance_does_not_refuse_later_starts_and_stops(alpha, redis, route):
    alpha.run_command(a_start_of())
    where = next(each for each in alpha.host.routes if (each.host is None) == (route == "class"))
    redis.hset(keys.instance(SERVICE.on(HostName("alpha"))), "fence", BEYOND)

    started = alpha.run_command(a_start_of(), route=where)
    redis.hset(keys.instance(SERVICE.on(HostName("alpha"))), "fence", BEYOND)
    stopped = alpha.run_command(a_stop_of())

    assert (started.operation.state, stopped.operation.state) == (State.SUCCEEDED, State.SUCCEEDED)
    assert alpha.containers() == []


def test_an_operation_below_the_fence_of_its_instance_ends_as_superseded_and_its_message_is_not_sent(store, redis):
    late, later = store.reserve_fences(1), store.reserve_fences(1)
    enqueue_signed(store, a_stop_of(), fence=later)
    redis.delete(keys.queue("host.alpha"))

    ended = enqueue_signed(store, a_start_of(), fence=late)

    assert (ended.state, ended.failure.code) == (State.CANCELLED, "superseded")
    assert store.get(ended.id) == ended
    assert [event.phase for event in store.events(ended.id)] == [Phase.QUEUED, Phase.CANCELLED]
    assert redis.exists(keys.queue("host.alpha")) == 0
    assert ended.id not in store.active()
    assert redis.pttl(keys.operation(ended.id)) > 0


def test_an_equal_fence_is_accepted_for_its_own_operation_only(alpha):
    where = next(each for each in alpha.host.routes if each.host is None)
    first = alpha.run_command(a_start_of(), route=where).operation

    second = alpha.run_command(a_start_of(), route=where, fence=first.fence)

    assert second.code == "superseded"


# The memory of a host ---------------------------------------------------------------------------------------------


def test_a_start_whose_fence_cannot_be_written_is_refused_and_a_stop_is_executed(alpha, tmp_path):
    alpha.run_command(a_start_of())
    directory = tmp_path / "alpha" / "fences"
    (directory / f"{SERVICE}.json").rename(tmp_path / "moved")
    directory.rmdir()
    directory.write_text("no directory")

    refused = alpha.run_command(a_start_of())
    others = alpha.run_command(a_start_of("svc-tiny-other"))
    stopped = alpha.run_command(a_stop_of())

    assert (refused.code, others.code) == ("fence_not_recorded", "fence_not_recorded")
    assert stopped.operation.state is State.SUCCEEDED
    assert alpha.containers() == []
    assert alpha.host.allocations.held(HostName("alpha")) == {}


def test_a_stop_is_remembered_by_a_running_worker_although_its_fence_could_not_be_written(alpha, tmp_path, attacker):
    start = alpha.run_command(a_start_of()).operation.id
    captured = attacker.capture(start)
    directory = tmp_path / "alpha" / "fences"
    (directory / f"{SERVICE}.json").unlink()
    directory.rmdir()
    directory.write_text("no directory")
    alpha.run_command(a_stop_of())

    outcome = alpha.finish(attacker.replay(captured, under=start))

    assert outcome.code == "superseded"


def test_a_host_remembers_one_small_file_per_service_with_its_record(tmp_path, store):
    memory = FenceMemory(tmp_path)
    operation = enqueue_signed(store, a_start_of()).id
    record = SignedRecord(text='{"id": 1}', signature="x")

    memory.advance(SERVICE, 7, operation)
    memory.keep(SERVICE, record)
    memory.advance(SERVICE, 9, operation)

    [file] = tmp_path.iterdir()
    assert json.loads(file.read_text()) == {"fence": 9, "operation": operation, "record": record.model_dump()}
    assert FenceMemory(tmp_path).records() == {SERVICE: record}
    assert FenceMemory(tmp_path).highest() == 9


def test_a_host_forgets_the_oldest_services_whose_orders_have_expired(tmp_path, store, monkeypatch):
    monkeypatch.setattr(fences, "MOST_SERVICES", 3)
    memory, operation = FenceMemory(tmp_path), enqueue_signed(store, a_start_of()).id

    for number in range(5):
        memory.advance(ServiceId(f"svc-tiny-old{number}"), number + 1, operation)
    for number in range(5):
        memory.advance(ServiceId(f"svc-tiny-new{number}"), clock_ms(), operation)

    assert sorted(file.name for file in tmp_path.iterdir()) == [f"svc-tiny-new{number}.json" for number in range(5)]


def test_a_file_that_cannot_be_read_is_reported_and_replaced_by_the_next_start(tmp_path, redis):
    broken = tmp_path / "alpha" / "fences" / f"{SERVICE}.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")

    with structlog.testing.capture_logs() as logged, a_host(redis, tmp_path) as alpha:
        outcome = alpha.run_command(a_start_of())

    assert outcome.operation.state is State.SUCCEEDED
    assert json.loads(broken.read_text())["fence"] == outcome.operation.fence
    assert "fence not readable" in [entry["event"] for entry in logged]
