"""A host with a fake runtime and a real Redis, a desk that executes operations on it, and a worker process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from lab.commands import SIGNING_KEY
from lab.desk import Desk, desk_of
from lab.forked import Process, launch
from lab.leaks import no_lease_alone
from lab.parts import eventually
from lab.redis_server import RedisServer

from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.settings import DockerSettings, HostSettings, Settings
from aima_worker.context import Timings
from aima_worker.node.hardware import arch
from aima_worker.runtimes.fake.runtime import FakeRuntime

STARTED = timedelta(seconds=60)  # an interpreter on a busy machine


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime(host="alpha", arch=arch(), images=["tiny:1"])


@pytest.fixture
def model_root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    root.mkdir()
    return root


@pytest.fixture
def settings(tmp_path: Path, model_root: Path) -> Settings:
    return Settings(
        state_dir=tmp_path / "state",
        installation="test",
        signing_key=SIGNING_KEY,
        host=HostSettings.model_validate({"name": "alpha", "ports": "18500-18599", "model_roots": [model_root]}),
        docker=DockerSettings(stall=timedelta(seconds=5)),
    )


@pytest.fixture
def timings() -> Timings:
    """The timings of the desk's host; overridden by modules and tests."""
    return Timings(pull_retry_delays=(timedelta(milliseconds=1), timedelta(milliseconds=1)))


@pytest.fixture
def desk(
    settings: Settings, redis: TextRedis, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch, timings: Timings
) -> Iterator[Desk]:
    with no_lease_alone(redis, runtime):
        with desk_of(settings, redis, runtime, probe=runtime.probe, timings=timings) as desk:
            yield desk
        monkeypatch.undo()
        runtime.away = False  # so that its containers can be listed, whatever the test did


@pytest.fixture
def worker_environment(own_redis: RedisServer, tmp_path: Path) -> dict[str, str]:
    reported = {
        "AIMA_CONFIG": os.devnull,
        "AIMA_REDIS__URL": own_redis.url,
        "AIMA_SIGNING_KEY": SIGNING_KEY.get_secret_value(),
        "AIMA_RUNTIME": "fake",
        "AIMA_STATE_DIR": str(tmp_path / "state"),
        "AIMA_HOST__NAME": "alpha",
    }
    return {**os.environ, **reported}


@pytest.fixture
def worker(own_redis: RedisServer, tmp_path: Path, worker_environment: dict[str, str]) -> Iterator[Process]:
    """A worker process that consumes its queues."""
    with (tmp_path / "worker.log").open("ab") as log:
        running = launch("aima_worker", env=worker_environment, stdout=log, stderr=log)
    wait_until_it_consumes(own_redis, tmp_path / "worker.log")
    yield running
    running.kill()
    running.wait()


def wait_until_it_consumes(redis: RedisServer, log: Path) -> None:
    """It binds its queues last."""
    with redis.client() as client:
        bound = "aima:_kombu.binding_permanent.host.alpha"
        assert eventually(lambda: client.exists(bound) == 1, within=STARTED), log.read_text()
        assert client.hexists(keys.HOSTS_SESSIONS, "alpha")
