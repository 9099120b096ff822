"""Fixtures for every test: real parts, skipped with a reason where missing (failed in CI), and checks for leftovers."""

from __future__ import annotations

import gc
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import fakeredis
import pytest
from hypothesis import HealthCheck, settings
from lab.available import why_not
from lab.leaks import no_container_of, nothing_held, odd_keys_of, open_what_lasts, remove_networks
from lab.parts import missing
from lab.plain_logs import log_plainly
from lab.redis_server import RedisServer, redis_program
from lab.sharing import at_work

from aima_core.redis.connection import RedisClient, command_link

PARTS = ("docker", "registry", "redis")
SHARE_THE_ENGINE = {"docker", "registry"}
EXAMPLES, EXAMPLES_IN_LONG_RUNS = 40, 200
"""Of each property that Hypothesis tests."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also the long tests: fleets, chaos, mechanisms switched off")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: fleets and chaos, minutes each; run with --long only")
    config.addinivalue_line(
        "markers", "alone: counts what the Docker Engine has; no other test works with it meanwhile"
    )
    settings.register_profile(
        "aima",
        max_examples=EXAMPLES_IN_LONG_RUNS if config.getoption("--long") else EXAMPLES,
        deadline=None,  # an example takes long on a busy machine, as the generation of the first ones does
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("aima")
    log_plainly()
    for name in [name for name in os.environ if name.startswith("AIMA_")]:
        del os.environ[name]  # the settings of the caller must not reach the tests


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """Imports leave little garbage, and the tests live as long as the process: no collection traverses either."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(trylast=True)  # after pytest has grouped the tests by their fixtures
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    selected = [item for item in items if config.getoption("--long") or item.get_closest_marker("long") is None]
    config.hook.pytest_deselected(items=[item for item in items if item not in selected])
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    items[:] = balanced(selected, workers=workers) if workers > 1 else selected


def balanced(items: list[pytest.Item], *, workers: int) -> list[pytest.Item]:
    """The tests of the Docker Engine begin where the second xdist worker begins, exclusive ones first.

    xdist gives each worker a run of tests of equal length, and an idle worker steals from the end of another's. So
    the other workers need no Docker Engine during an exclusive test, and no long test is the last. The other tests of
    their files follow at once, for the same fixtures.
    """
    exclusive = {item.path for item in items if "alone" in marks_of(item)}
    sharing = [item for item in items if marks_of(item) & SHARE_THE_ENGINE or item.path in exclusive]
    others = [item for item in items if not marks_of(item) & SHARE_THE_ENGINE and item.path not in exclusive]
    sharing.sort(key=lambda item: (item.path not in exclusive, *on_hosts(item), not is_slow(item)))
    others.sort(key=lambda item: not is_slow(item))
    first = len(items) // workers
    return others[:first] + sharing + others[first:]


def on_hosts(item: pytest.Item) -> tuple[bool, bool]:
    """Sorts the tests with several hosts first, and of them last those that share hosts, which end with the others."""
    return "hosts" not in item.path.parts, "shared_fleet" in getattr(item, "fixturenames", ())


def is_slow(item: pytest.Item) -> bool:
    return "slow" in marks_of(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outermost: the wait for the lock is not part of the timeout
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    if not marks_of(item) & SHARE_THE_ENGINE:
        return (yield)
    with at_work(item.config.cache.mkdir("engine"), alone="alone" in marks_of(item)):
        return (yield)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Race: a process that has run its tests removes no network of a container that another is about to start."""
    if not hasattr(session.config, "workerinput") and why_not("docker") is None:
        remove_networks()


def marks_of(item: pytest.Item) -> set[str]:
    return {marker.name for marker in item.iter_markers()}


def pytest_runtest_setup(item: pytest.Item) -> None:
    for part in PARTS:
        if item.get_closest_marker(part):
            require(part)


def require(part: str) -> None:
    """Skips the test with the reason if this machine lacks the part; fails it in CI."""
    if reason := why_not(part):
        missing(reason)


# Redis ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = _new_redis(tmp_path_factory.mktemp("redis"), appendfsync="everysec")  # no test kills it
    yield server
    server.stop()


@pytest.fixture
def redis_url(shared_redis: RedisServer) -> Iterator[str]:
    """The URL of an empty Redis, shared by the run's tests: leave it running."""
    yield shared_redis.url
    odd = odd_keys_of(shared_redis)
    shared_redis.empty()
    assert odd == []


@pytest.fixture
def redis(redis_url: str) -> Iterator[RedisClient]:
    """A client of an empty Redis, created as in the product."""
    link = command_link(redis_url)
    yield link
    link.close()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A private Redis server, which the test may kill and restart."""
    directory = tmp_path / "redis"
    directory.mkdir()
    server = _new_redis(directory)
    yield server
    odd = odd_keys_of(server)
    server.kill()
    assert odd == []


@pytest.fixture
def fake_redis() -> Iterator[fakeredis.FakeRedis]:
    """An empty in-process Redis with Lua: for rules, not for timing."""
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer(), decode_responses=True)
    yield client
    client.close()


def _new_redis(directory: Path, **settings: str) -> RedisServer:
    require("redis")
    program = redis_program()
    assert program is not None
    server = RedisServer(program, directory, **settings)
    server.start()
    return server


# Leftovers --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def opens_what_lasts() -> None:
    open_what_lasts()


@pytest.fixture(autouse=True)
def leaves_nothing_held() -> Iterator[None]:
    """Fails the test if it leaves a thread or a descriptor behind."""
    with nothing_held():
        yield


@pytest.fixture
def installation() -> Iterator[str]:
    """A unique installation id; fails the test if one of its containers is left behind."""
    name = f"t{uuid.uuid4().hex[:12]}"
    if why_not("docker"):
        yield name
        return
    with no_container_of(name):
        yield name
