"""Backup and restore with real processes: under load, a Redis that lost all its data, and engines that run on."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.request import urlopen

import httpx2
import pytest
import redis
from lab.parts import eventually
from lab.running import Aima, engines

from aima_api.up.redis_server import managed_url
from aima_core.errors import NothingLost

pytestmark = [pytest.mark.redis, pytest.mark.slow]
PAUSE = 0.05
"""Seconds between two requests."""
WITHIN = timedelta(seconds=60)
RUNNING, STOPPED = "svc-tiny-dial", "svc-tiny-other"


@pytest.fixture
def aima(tmp_path: Path) -> Iterator[Aima]:
    engines("install-native", "dial", "--prefix", str(tmp_path / "native"))
    path = f"{tmp_path}/native/bin:{os.environ['PATH']}"
    running = Aima(tmp_path, installation="backup", runtime="process", PATH=path, AIMA_NATIVE__USERS="none")
    running.up()
    try:
        yield running
    finally:
        running.end()


def test_a_backup_under_load_restores_everything_with_no_engine_recreated(aima: Aima, tmp_path: Path) -> None:
    file = str(tmp_path / "aima.backup")
    for service in (RUNNING, STOPPED):
        aima.here("service", "start", service, "--model", "Dial", "--wait")
    aima.here("service", "stop", STOPPED, "--wait")
    aima.here("key", "create", "kept", "--scope", "read")
    aima.here("key", "create", "revoked", "--scope", "read")
    aima.here("key", "revoke", "revoked")
    before, engine = state_of(aima), engine_of(aima)

    with requests_from(aima):
        made = aima.aima("backup", file)
    refused = aima.aima("restore", file)
    lose_all_data(aima)
    with requests_from(aima):
        restored = aima.aima("restore", file)

    assert made.returncode == restored.returncode == 0, made.stderr + restored.stderr
    assert refused.returncode == NothingLost.exit_code, refused.stderr
    assert eventually(lambda: state_of(aima) == before, within=WITHIN), f"{state_of(aima)}\n{before}"
    assert engine_of(aima) == engine
    assert [key["name"] for key in aima.record("key", "list")] == ["kept"]
    stopped = aima.here("service", "stop", RUNNING, "--wait")
    assert stopped.returncode == 0, stopped.stderr
    assert aima.record("port", "list") == []


def state_of(aima: Aima) -> list[tuple[str, str, int | None, int]]:
    services = [each for each in aima.record("service", "list") if each["id"] in (RUNNING, STOPPED)]
    found = [(service["id"], each) for service in services for each in service["instances"]]
    return [(id, each["state"], each["port"], each["fence"]) for id, each in found]


def engine_of(aima: Aima) -> str:
    """The process of the engine, which answers."""
    assert urlopen(f"http://127.0.0.1:{aima.instance(RUNNING)['port']}/health", timeout=5).status == 200
    (record,) = (aima.directory / "state/processes").rglob("running.json")
    return record.read_text()


@contextmanager
def requests_from(aima: Aima) -> Iterator[None]:
    """Services are created and removed while inside."""
    ended = threading.Event()
    created = []

    def request() -> None:
        with httpx2.Client(base_url=aima.url, timeout=20, trust_env=False) as client:
            while not ended.wait(PAUSE):
                answer = client.post("/v1/services", json={"id": "svc-tiny-load", "model": "Dial"})
                created.append(answer.status_code == 201)
                client.delete("/v1/services/svc-tiny-load")

    thread = threading.Thread(target=request)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert any(created)


def lose_all_data(aima: Aima) -> None:
    """And waits until the worker has seen it."""
    with redis.Redis.from_url(managed_url(aima.directory / "state/redis") or "") as server:
        server.flushall()
        assert eventually(lambda: server.exists("aima:epoch") == 1, within=WITHIN)
