"""A fleet of fake hosts and an API node in separate processes, on a private Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from api.catalog.entries import write
from lab.api_process import ApiProcess, api_process
from lab.fleet import IMAGE, Fleet, fleet_engine, fleet_on
from lab.redis_server import RedisServer


@pytest.fixture
def fleet(own_redis: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    """An empty fleet; a killed host loses its containers."""
    with fleet_on(own_redis.url, tmp_path) as fleet:
        yield fleet


@pytest.fixture
def kept_fleet(own_redis: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    """An empty fleet; containers outlive the processes of their hosts."""
    with fleet_on(own_redis.url, tmp_path, kept=True) as fleet:
        yield fleet


@pytest.fixture
def api(own_redis: RedisServer, tmp_path: Path) -> Iterator[ApiProcess]:
    """An API node that knows an engine of type `fleet`, which any host of a fleet runs."""
    write(tmp_path / "catalog/engines/fleet/fleet-cpu.yaml", fleet_engine("fleet", image=IMAGE))
    with api_process(own_redis.url, tmp_path, catalog=tmp_path / "catalog") as api:
        yield api
