"""The fixtures of the manual: `api`, `host` and `other_host`, all in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import fakeredis
import pytest
from fundamentals.cluster import Api, Host
from lab.commands import SIGNING_KEY
from lab.desk import desk_of

import aima_api.app
from aima_core.settings import Settings
from aima_worker.context import Timings
from aima_worker.node.hardware import arch
from aima_worker.runtimes.fake.runtime import FakeRuntime

TIMINGS = Timings(restart_delays=(timedelta(),) * len(Timings.restart_delays))


@pytest.fixture
def make_host(fake_redis: fakeredis.FakeRedis, tmp_path: Path) -> Iterator[Callable[..., Host]]:
    with ExitStack() as stack:

        def make(name: str, *, memory: str = "8GB") -> Host:
            facts = {"name": name, "ports": "18500-18509", "facts": {"memory": memory}}
            settings = Settings.model_validate(
                {
                    "state_dir": tmp_path / name,
                    "installation": "test",
                    "signing_key": SIGNING_KEY,
                    "host": facts,
                    "docker": {"stall": "1m"},
                }
            )
            runtime = FakeRuntime(host=name, arch=arch(), images=["tiny:1", "aima/dial:1"])
            desk = stack.enter_context(desk_of(settings, fake_redis, runtime, probe=runtime.probe, timings=TIMINGS))
            host = Host(desk, runtime, fake_redis)
            host.join()
            return host

        yield make


@pytest.fixture
def host(make_host: Callable[..., Host]) -> Host:
    """The host `alpha`, with 8 GB of memory and the image `tiny:1`."""
    return make_host("alpha")


@pytest.fixture
def other_host(make_host: Callable[..., Host], host: Host) -> Host:
    """The host `beta`, like `alpha`."""
    return make_host("beta")


@pytest.fixture
def api(fake_redis: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setattr(aima_api.app, "command_link", lambda _url: fake_redis)
    return Api(aima_api.app.create_app(Settings.model_validate({"signing_key": SIGNING_KEY, "api": {"port": 0}})))


@pytest.fixture
def restarts() -> int:
    """How often a crashed engine is restarted, here without a delay."""
    return len(TIMINGS.restart_delays)


@pytest.fixture
def lose_redis_data(fake_redis: fakeredis.FakeRedis) -> Callable[[], object]:
    return fake_redis.flushall
