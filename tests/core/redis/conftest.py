"""Real Redis servers for fault injection, and hosts that use one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from lab.available import why_not
from lab.fleet import FakeHost, Fleet, fleet_on
from lab.parts import missing
from lab.redis_server import RedisServer, redis_program
from lab.submissions import Submissions

HOST = "alpha"


@pytest.fixture
def redis_server_program() -> Path:
    if reason := why_not("redis"):
        missing(reason)
    program = redis_program()
    assert program is not None
    return program


@pytest.fixture
def a_redis(redis_server_program: Path, tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Creates started servers with the given settings; all are stopped after the test."""
    servers: list[RedisServer] = []

    def make(**settings: str) -> RedisServer:
        directory = tmp_path / f"redis-{len(servers)}"
        directory.mkdir()
        servers.append(RedisServer(redis_server_program, directory, **settings))
        servers[-1].start()
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


@pytest.fixture
def hosts_of(tmp_path: Path) -> Iterator[Callable[[str], Fleet]]:
    """Starts the host on that Redis."""
    with ExitStack() as up:

        def start_host(redis_url: str) -> Fleet:
            fleet = up.enter_context(fleet_on(redis_url, tmp_path))
            fleet.up([FakeHost(HOST)], processes=1)
            return fleet

        yield start_host


@pytest.fixture
def asked_of() -> Iterator[Callable[[str], Submissions]]:
    """Creates submissions to the host on that Redis."""
    made: list[Submissions] = []

    def make(redis_url: str) -> Submissions:
        made.append(Submissions(redis_url, host=HOST))
        return made[-1]

    yield make
    for each in made:
        each.close()
