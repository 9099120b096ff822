"""A worker that joins: its first lines name the host, runtime, queues and Redis, and what it waits for."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from lab.commands import SIGNING_KEY
from lab.forked import launch
from lab.parts import eventually, free_port

STARTED = timedelta(seconds=60)  # an interpreter on a busy machine


def test_a_worker_that_waits_for_redis_reports_its_queues_and_no_password(tmp_path: Path) -> None:
    address, log = f"127.0.0.1:{free_port()}/0", tmp_path / "worker.log"
    settings = {
        "AIMA_REDIS__URL": f"redis://user:secret@{address}",
        "AIMA_SIGNING_KEY": SIGNING_KEY.get_secret_value(),
        "AIMA_RUNTIME": "fake",
        "AIMA_STATE_DIR": str(tmp_path / "state"),
        "AIMA_HOST__NAME": "alpha",
    }
    with log.open("wb") as said:
        worker = launch("aima_worker", env={**os.environ, **settings}, stdout=said, stderr=said)
    try:
        assert eventually(lambda: "waiting for Redis" in log.read_text(), within=STARTED), log.read_text()
    finally:
        worker.kill()
        worker.wait(10)

    starting = next(line for line in log.read_text().splitlines() if "worker starting" in line)
    assert f'host=alpha runtime=fake queues="host.alpha cpu.amd64" redis=redis://{address}' in starting
    assert "secret" not in log.read_text()
