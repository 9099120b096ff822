"""Worker shutdown: operations under way are requeued at once, and the next worker continues them."""

from __future__ import annotations

import time
from datetime import timedelta
from signal import SIGQUIT, SIGTERM, Signals

import pytest
from faults.processes import LOADS, SeparateProcesses
from lab.parts import eventually
from lab.redis_server import RedisServer

from aima_core.domain.ids import OperationId
from aima_core.queue.notifier import Notifier
from aima_core.redis import keys
from aima_core.redis.connection import command_link
from aima_core.store.operations import OperationStore

pytestmark = [pytest.mark.docker, pytest.mark.redis, pytest.mark.slow]
SERVICE = "svc-tiny-dial"
ENDS_WITHIN = 10
"""Seconds: three are promised; a busy machine has more. So below."""
REACHED_WITHIN = timedelta(seconds=60)
"""A phase that comes after the start of a container."""
JOINS_WITHIN = timedelta(seconds=60)
"""An interpreter on a busy machine."""
RESUMED_WITHIN = timedelta(seconds=10)
"""Five are promised; without its shutdown, the claim would expire after 15."""
TAKEN_OVER_WITHIN = timedelta(seconds=60)


@pytest.mark.parametrize(
    "signals",
    [
        pytest.param((SIGTERM,), id="SIGTERM"),
        pytest.param((SIGQUIT,), id="SIGQUIT"),
        pytest.param((SIGTERM, SIGQUIT), id="SIGTERM and SIGQUIT"),
    ],
)
def test_a_start_that_loads_is_continued_by_the_next_worker_with_the_same_engine(
    aima: SeparateProcesses, signals: tuple[Signals, ...]
) -> None:
    id = aima.submit("service", "start", SERVICE, *LOADS)
    assert eventually(lambda: aima.operation(id)["phase"] == "loading", within=REACHED_WITHIN)
    ran = aima.processes()

    began = time.monotonic()
    aima.tell_worker(*signals)
    aima.until_worker_ends()
    took = time.monotonic() - began
    requeued = aima.operation(id)
    aima.start_worker()
    assert eventually(lambda: aima.log("worker").count("worker joined") == 2, within=JOINS_WITHIN), aima.log("worker")

    assert eventually(lambda: aima.operation(id)["attempt"] == 2, within=RESUMED_WITHIN), aima.log("worker")
    aima.finish_loading()
    assert eventually(lambda: aima.operation(id)["state"] == "succeeded", within=TAKEN_OVER_WITHIN), aima.log("worker")
    assert took < ENDS_WITHIN
    assert requeued["state"] == "queued"
    assert (aima.operation(id)["attempt"], aima.processes()) == (2, ran)
    stop = aima.aima("service", "stop", SERVICE, "--wait")
    assert stop.returncode == 0, stop.stderr


def requeue(redis: RedisServer, ids: list[str]) -> None:
    """As Celery requeues unacknowledged messages of finished tasks."""
    link = command_link(redis.url)
    for id in ids:
        Notifier(link).notify(OperationStore(link).get(OperationId(id)))
    link.close()


def are_consumed(redis: RedisServer) -> bool:
    """Whether no message is on a queue, or received and not acknowledged."""
    with redis.client() as client:
        queues = [key for key in client.scan_iter(keys.queue("*")) if client.type(key) == "list"]
        return not queues and not client.hlen(keys.queue("unacked"))


def test_finished_steps_are_not_repeated_after_a_second_shutdown_signal(
    aima: SeparateProcesses, own_redis: RedisServer
) -> None:
    services = [f"{SERVICE}-{name}" for name in ("one", "two", "three", "four")]
    ids = [aima.submit("service", "start", service, "--model", "Dial") for service in services]
    assert eventually(lambda: bool(aima.operation(ids[0])["ended_at"]), within=REACHED_WITHIN)

    aima.tell_worker(SIGTERM, SIGQUIT)
    aima.until_worker_ends()
    requeue(own_redis, ids)
    aima.start_worker()

    assert eventually(lambda: all(aima.operation(id)["ended_at"] for id in ids), within=TAKEN_OVER_WITHIN)
    assert eventually(lambda: are_consumed(own_redis), within=TAKEN_OVER_WITHIN)
    with own_redis.client() as client:
        logs = [client.xrange(f"aima:log:{id}") for id in ids]
    ends = [sum('"ready"' in entry["event"] for _, entry in log) for log in logs]
    assert ends == [1] * len(ids)
    assert len(aima.processes()) == len(services)
    stop = aima.aima("service", "stop", *services, "--wait")
    assert stop.returncode == 0, stop.stderr
