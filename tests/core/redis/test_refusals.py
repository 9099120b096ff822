"""A Redis that refuses commands: the reason is reported within five seconds, without the password."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from api.node import SERVICE, api_node
from lab.commands import SIGNING_KEY
from lab.forked import launch
from lab.parts import eventually

from aima_core.domain.operations import State

pytestmark = pytest.mark.redis

PASSWORD = "right-secret"
WAYS = {
    "a wrong password": (lambda url: url.replace("right", "wrong"), "refuses the user or password"),
    "no password": (lambda url: url.replace(f":{PASSWORD}@", ""), "refuses the user or password"),
    "a database that is not there": (lambda url: url.replace("/0", "/99"), "DB index is out of range"),
    "TLS, which the server does not speak": (lambda url: url.replace("redis:", "rediss:"), "asks for TLS"),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_api_reports_the_reason_why_redis_refuses_it(a_redis, way):
    spoil, reason = WAYS[way]
    url = spoil(a_redis(requirepass=PASSWORD).url)

    with api_node(url) as node:
        began = time.monotonic()
        answers = [node.get("/v1/hosts"), node.get("/readyz")]

        assert [answer.status_code for answer in answers] == [503, 503]
        assert reason in answers[0].json()["detail"]
        assert "secret" not in "".join(answer.text for answer in answers)
        assert time.monotonic() - began < 2 * 5
        assert node.get("/healthz").status_code == 200


@pytest.mark.parametrize("way", WAYS)
def test_a_worker_waits_and_reports_the_reason_why_redis_refuses_it(a_redis, tmp_path, way):
    spoil, reason = WAYS[way]
    url = spoil(a_redis(requirepass=PASSWORD).url)

    with worker_on(url, tmp_path) as log:
        assert eventually(lambda: "waiting for Redis" in log.read_text(), within=timedelta(seconds=90))

    assert reason in log.read_text()
    assert "secret" not in log.read_text()


def test_a_worker_continues_once_its_password_is_valid_again(a_redis, hosts_of, asked_of):
    redis = a_redis()
    fleet, asked = hosts_of(redis.url), asked_of(redis.url)
    redis.demand(PASSWORD)
    redis.reset_connections()
    assert eventually(lambda: "Authentication required" in fleet.processes[0].log(), within=timedelta(seconds=90))

    redis.demand(None)

    assert asked.have_ended([asked.pull()], within=timedelta(seconds=90))


def test_a_full_redis_is_reported_and_keeps_its_data_and_workers_continue_once_it_has_memory(
    a_redis, hosts_of, asked_of
):
    redis = a_redis()
    fleet, asked = hosts_of(redis.url), asked_of(redis.url)
    kept = asked.starts(2)
    assert asked.have_ended(kept, within=timedelta(seconds=90))
    with api_node(redis.url) as node:
        amid = asked.starts(4, named="amid")
        assert eventually(lambda: any(map(asked.has_begun, amid)))

        redis.fill()
        refused = node.post(f"/v1/services/{SERVICE}:start")
        listed = node.get("/v1/operations")
        assert eventually(lambda: "maxmemory" in fleet.processes[0].log(), within=timedelta(seconds=90))
        redis.make_room()

        assert (refused.status_code, refused.json()["code"]) == (503, "broker_unavailable")
        assert "maxmemory" in refused.json()["detail"]
        assert len(listed.json()["items"]) == len(kept) + len(amid)
    assert asked.have_ended([*amid, asked.pull()], within=timedelta(seconds=90))
    assert {asked.store.get(id).state for id in [*kept, *amid]} == {State.SUCCEEDED}
    assert set(fleet.made().values()) == {1}


def test_a_replica_is_reported_and_workers_continue_once_it_is_master_again(a_redis, hosts_of, asked_of):
    redis, other = a_redis(), a_redis()
    fleet, asked = hosts_of(redis.url), asked_of(redis.url)
    kept = asked.starts(2)
    assert asked.have_ended(kept, within=timedelta(seconds=90))
    running = fleet.running()
    other.follow(redis)
    assert eventually(lambda: other.is_in_step(), within=timedelta(seconds=60))
    with api_node(redis.url) as node:
        other.follow(None)
        redis.follow(other)

        refused = node.post("/v1/images:pull", {"image": "a:1", "hosts": ["alpha"]})
        assert eventually(lambda: "read only replica" in fleet.processes[0].log(), within=timedelta(seconds=90))
        redis.follow(None)

        assert (refused.status_code, refused.json()["code"]) == (503, "broker_unavailable")
        assert "read-only replica" in refused.json()["detail"]
    assert asked.have_ended([asked.pull()], within=timedelta(seconds=90))
    assert {asked.store.get(id).state for id in kept} == {State.SUCCEEDED}
    assert fleet.running() == running


@contextmanager
def worker_on(url: str, directory: Path) -> Iterator[Path]:
    """A worker in a separate process; yields the path of its log."""
    reported = {
        "AIMA_CONFIG": os.devnull,
        "AIMA_REDIS__URL": url,
        "AIMA_SIGNING_KEY": SIGNING_KEY.get_secret_value(),
        "AIMA_RUNTIME": "fake",
        "AIMA_STATE_DIR": str(directory / "state"),
        "AIMA_HOST__NAME": "alpha",
    }
    log = directory / "worker.log"
    with log.open("wb") as said:
        process = launch("aima_worker", env={**os.environ, **reported}, stdout=said, stderr=said)
    try:
        yield log
        assert process.poll() is None, log.read_text()
    finally:
        process.kill()
        process.wait(10)
