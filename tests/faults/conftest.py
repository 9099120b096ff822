"""Desks on a real Docker Engine: the shared one, or a private one that a test can kill or give a full disk.

After every test no operation is running and nothing is left behind: no container, not even one
that was never started, no lease, no thread and no descriptor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from engines.conftest import build_image
from faults.dial import DIAL_IMAGE, a_dial
from faults.processes import SeparateProcesses
from lab.commands import SIGNING_KEY, a_stop_of
from lab.desk import Desk, desk_of
from lab.engine import OwnEngine, own_engine
from lab.leaks import nothing_held
from lab.parts import own_ports
from lab.redis_server import RedisServer, redis_program

from aima_core.redis.connection import RedisClient, command_link
from aima_core.settings import DockerSettings, HostSettings, Settings
from aima_worker.context import Timings
from aima_worker.operations.container_spec import ours
from aima_worker.runtimes.docker.sdk.runtime import DockerSdkRuntime

STALL = timedelta(seconds=2)
WAIT = timedelta(milliseconds=300)
AT_ONCE = 8
PORTS = own_ports(18700)


@pytest.fixture(scope="session")
def dial_image() -> str:
    build_image(DIAL_IMAGE)
    return DIAL_IMAGE


@pytest.fixture
def stall() -> timedelta:
    return STALL


@pytest.fixture
def settings(tmp_path: Path, installation: str, stall: timedelta) -> Settings:
    return Settings(
        state_dir=tmp_path / "state",
        installation=installation,
        signing_key=SIGNING_KEY,
        host=HostSettings.model_validate({"name": "alpha", "ports": PORTS}),
        docker=DockerSettings(stall=stall),
    )


@pytest.fixture
def timings() -> Timings:
    return Timings(pull_retry_delays=(WAIT, WAIT))


@pytest.fixture
def desk(settings: Settings, redis: RedisClient, dial_image: str, timings: Timings) -> Iterator[Desk]:
    """A desk on the shared Docker Engine."""
    with _spotless_desk(settings, redis, DockerSdkRuntime(host="alpha"), timings) as desk:
        yield desk


@pytest.fixture(scope="module")
def engines(dial_image: str) -> Iterator[Callable[..., OwnEngine]]:
    """Starts a private Docker Engine with these options of `own_engine`, one for the tests of a module."""
    with ExitStack() as started:

        @cache
        def engine(**options: Any) -> OwnEngine:
            made = started.enter_context(own_engine(**options))
            made.take(dial_image)
            return made

        yield engine


@pytest.fixture
def own(request: pytest.FixtureRequest, engines: Callable[..., OwnEngine]) -> Iterator[OwnEngine]:
    """A private Docker Engine, in whose network the test runs; an indirect parameter is passed to `own_engine`.

    A test may kill it: it is started again for the next one.
    """
    engine = engines(**getattr(request, "param", {}))
    if not engine.answers():
        engine.start()
    with engine.cell.entered():
        yield engine


@pytest.fixture
def private_desk(own: OwnEngine, settings: Settings, tmp_path: Path, timings: Timings) -> Iterator[Desk]:
    """A desk on the private Docker Engine."""
    program = redis_program()
    assert program is not None
    server = RedisServer(program, tmp_path)
    server.start()
    link = command_link(server.url)
    try:
        with _spotless_desk(settings, link, DockerSdkRuntime(own.address, host="alpha"), timings) as desk:
            yield desk
    finally:
        link.close()
        server.kill()


@contextmanager
def _spotless_desk(
    settings: Settings, redis: RedisClient, runtime: DockerSdkRuntime, timings: Timings
) -> Iterator[Desk]:
    with desk_of(settings, redis, runtime, timings=timings) as desk:
        try:
            _warm_up(desk, redis)
            with nothing_held():
                yield desk
            assert desk.host.operations.active() == []
            assert desk.leases() == []
            assert [container.name for container in runtime.containers(ours(desk.host))] == []
        finally:
            for container in runtime.containers(ours(desk.host)):
                runtime.remove(container.name, grace=timedelta(0))
            runtime.close()


def _warm_up(desk: Desk, redis: RedisClient) -> None:
    """Creates the threads and connections that are kept between operations, for several concurrent ones."""
    for command in (a_dial(), a_stop_of()):
        assert desk.begin(command)[1].result(60).code is None
    kept = [redis.connection_pool.get_connection() for _ in range(AT_ONCE)]
    for connection in kept:
        redis.connection_pool.release(connection)
    together = Barrier(AT_ONCE)

    def ask(_: int) -> None:
        together.wait()  # else few threads take turns, with few connections
        desk.host.runtime.facts()

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(ask, range(4 * AT_ONCE)))


@pytest.fixture
def aima(tmp_path: Path, own_redis: RedisServer, installation: str, dial_image: str) -> Iterator[SeparateProcesses]:
    """AIMA in separate processes, on a private Redis."""
    running = SeparateProcesses(tmp_path, own_redis.url, installation=installation)
    try:
        running.up()
        yield running
    finally:
        running.end()
