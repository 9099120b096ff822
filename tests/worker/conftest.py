"""A host with a fake runtime and a real Redis, and a way to have it carry a command out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from lab.desk import Desk, desk_of
from lab.leftovers import no_lease_alone
from lab.wishes import SIGNING_KEY

from aima_core.redis.interface import TextRedis
from aima_core.settings import DockerSettings, HostSettings, Settings
from aima_worker.context import Timings
from aima_worker.node.hardware import arch
from aima_worker.runtimes.fake.runtime import FakeRuntime


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
    """Those of the desk's host; a test module or a test overrides it."""
    return Timings(pull_retry_delays=(timedelta(milliseconds=1), timedelta(milliseconds=1)))


@pytest.fixture
def desk(
    settings: Settings, redis: TextRedis, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch, timings: Timings
) -> Iterator[Desk]:
    with no_lease_alone(redis, runtime):
        with desk_of(settings, redis, runtime, probe=runtime.probe, timings=timings) as desk:
            yield desk
        monkeypatch.undo()
        runtime.away = False  # whatever the test did to it, what it has is to be seen
