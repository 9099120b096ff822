"""What a host and its instances use, measured from their processes and published until it is outdated."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import fakeredis
import pytest

from aima_core.domain.hosts import HostUsage, InstanceUsage
from aima_core.domain.ids import HostName, InstanceId
from aima_core.redis import keys
from aima_core.store.hosts import HostStore
from aima_worker.node.usage import UsageReport
from aima_worker.runtimes.process.process_table import Process

HOST = HostName("box")
ID = InstanceId("svc-tiny-dial@box")
BUSY = "data = bytearray(30_000_000)\nprint(len(data), flush=True)\nwhile True: pass"


@pytest.fixture
def redis() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis(decode_responses=True)


@pytest.fixture
def engine() -> Iterator[Process]:
    """A first process whose child computes."""
    command = [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}])"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as running:
        assert running.stdout is not None
        running.stdout.readline()
        leader = Process.of(running.pid)
        yield leader
        subprocess.run(["pkill", "-KILL", "-s", str(running.pid)], check=False)


def measured(redis: fakeredis.FakeRedis, engines: dict[InstanceId, Process], *, times: int = 1) -> HostUsage:
    store = HostStore(redis)
    report = UsageReport(HOST, store, processes=lambda: engines, restarts=lambda _: 2)
    for _ in range(times):
        report.publish()
    return store.usage_of([HOST])[HOST]


def test_an_instance_has_the_memory_and_the_cpu_of_all_its_processes(redis, engine):
    first = measured(redis, {ID: engine}).instances[ID]
    store = HostStore(redis)
    report = UsageReport(HOST, store, processes=lambda: {ID: engine}, restarts=lambda _: 2)
    report.publish()

    def cpu() -> float:
        report.publish()
        return store.usage_of([HOST])[HOST].instances[ID].cpu or 0.0

    assert first.cpu is None
    assert (first.memory > 30_000_000, first.restarts) == (True, 2)
    assert any(cpu() > 0 for _ in range(100_000))


def test_an_instance_that_has_ended_uses_nothing(redis):
    ended = Process(pid=2**22 + 1, started=1)

    assert measured(redis, {ID: ended}, times=2).instances[ID] == InstanceUsage(cpu=0.0, memory=0, restarts=2)


def test_a_host_without_instances_has_its_own_usage(redis):
    usage = measured(redis, {})

    assert usage.memory > 0
    assert usage.instances == {}


def test_usage_expires_so_that_none_is_outdated(redis):
    measured(redis, {})

    assert 0 < redis.pttl(keys.usage(HOST)) <= keys.USAGE_TTL.total_seconds() * 1000


@pytest.mark.parametrize("forged", ["", "[]", '{"host": "other", "at": "2026-01-01T00:00:00Z", "cpu": 1, "memory": 1}'])
def test_usage_that_no_worker_wrote_is_skipped(redis, forged):
    redis.set(keys.usage(HOST), forged)

    assert HostStore(redis).usage_of([HOST]) == {}
