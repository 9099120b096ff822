"""The lab itself: isolation between tests, leak detection, and the lock on the Docker Engine."""

from __future__ import annotations

import signal
import socket
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from lab.forked import launch
from lab.leaks import no_lease_alone, nothing_held, odd_keys_of
from lab.redis_server import RedisServer
from lab.sharing import at_work
from redis import Redis

from aima_core.domain.ids import HostName, InstanceId
from aima_core.errors import BadSettings
from aima_core.redis import keys
from aima_core.redis.connection import RedisClient
from aima_core.store.ports import PortStore
from aima_worker.runtimes.fake.runtime import FakeRuntime

AT_ONCE = timedelta(milliseconds=100)


@pytest.mark.parametrize("round", [1, 2])
def test_every_test_starts_with_an_empty_redis(round: int, redis: RedisClient) -> None:
    assert redis.keys("*") == []

    redis.set(keys.UPKEEP, f"round {round}", px=60_000)


@pytest.mark.redis
def test_a_killed_redis_restarts_with_its_data(own_redis: RedisServer) -> None:
    with client_of(own_redis) as client:
        client.set(keys.UPKEEP, "yes", px=60_000)

    own_redis.kill()
    own_redis.start()

    with client_of(own_redis) as client:
        assert client.get(keys.UPKEEP) == "yes"


def test_a_leaked_thread_fails_the_test() -> None:
    end = threading.Event()

    with pytest.raises(AssertionError, match="thread straggler"), nothing_held(settles_within=AT_ONCE):
        threading.Thread(target=end.wait, name="straggler").start()

    end.set()


def test_a_leaked_descriptor_fails_the_test() -> None:
    left: list[socket.socket] = []

    with pytest.raises(AssertionError, match=r"descriptor \d+ on socket"), nothing_held(settles_within=AT_ONCE):
        left.append(socket.socket())

    left[0].close()


def test_a_key_without_its_ttl_fails_the_test(own_redis: RedisServer) -> None:
    with own_redis.client() as client:
        client.set(keys.UPKEEP, "for ever")

        timer = odd_keys_of(own_redis)

        client.delete(keys.UPKEEP)
    assert timer == [f"{keys.UPKEEP} has no expiry, and should have one"]


def test_a_lease_without_a_container_fails_the_test(redis: RedisClient) -> None:
    ports = PortStore(redis, HostName("alpha"))
    ports.set_range(range(18500, 18510))

    with (
        pytest.raises(AssertionError, match="port 18500 of svc-tiny-dial@alpha"),
        no_lease_alone(redis, FakeRuntime(host="alpha")),
    ):
        ports.lease(InstanceId("svc-tiny-dial@alpha"), fence=1)


def test_a_thread_that_is_ending_has_time_to_end() -> None:
    with nothing_held():
        threading.Timer(0.2, lambda: None).start()


@pytest.mark.parametrize(
    ("first", "second", "together"), [(False, False, True), (True, False, False), (False, True, False)]
)
def test_the_lock_on_the_docker_engine_is_shared_or_exclusive(
    first: bool, second: bool, together: bool, tmp_path: Path
) -> None:
    came = threading.Event()

    def come() -> None:
        with at_work(tmp_path, alone=second):
            came.set()

    with at_work(tmp_path, alone=first):
        other = threading.Thread(target=come)
        other.start()
        assert came.wait(timeout=60 if together else 0.3) is together

    assert came.wait(timeout=60)
    other.join()


def client_of(server: RedisServer) -> Redis:
    return Redis(port=server.port, decode_responses=True)


def test_a_forked_process_has_its_own_environment_and_reports_how_it_ended(tmp_path: Path) -> None:
    environment = {"AIMA_CONFIG": "/dev/null", "AIMA_REDIS__URL": "redis://127.0.0.1:9", "PATH": ""}
    with (tmp_path / "log").open("ab") as log:
        refused = launch("aima_api", env=environment, stdout=log, stderr=log).wait(60)
        killed = launch("aima_worker", env={**environment, "AIMA_SIGNING_KEY": "k" * 32}, stdout=log, stderr=log)
        killed.kill()

    assert refused == BadSettings.exit_code
    assert killed.wait(60) == -signal.SIGKILL
    assert BadSettings.code in (tmp_path / "log").read_text()
