"""Celery's own command line reads the workers by the name of the application, with AIMA's settings."""

from __future__ import annotations

import subprocess
import sys

import pytest
from lab.parts import eventually

pytestmark = pytest.mark.redis

ENDS_WITHIN = 120
ANSWERS_WITHIN = "30"
OF_THE_WORKER = ("--destination", "aima@alpha")
"""Without it, Celery waits for the whole timeout for the answers of others."""


@pytest.fixture
def celery(worker, worker_environment, own_redis):
    with own_redis.client() as client:  # a command that it does not receive yet is lost
        assert eventually(lambda: client.pubsub_numpat() > 0), "the worker has not subscribed to its control channel"

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "celery", "-A", "aima_worker.celery", *words]
        return subprocess.run(
            command, env=worker_environment, capture_output=True, text=True, timeout=ENDS_WITHIN, check=False
        )

    return run


def test_celery_status_lists_the_worker(celery):
    status = celery("status", "--timeout", ANSWERS_WITHIN, *OF_THE_WORKER)

    assert (status.returncode, status.stderr) == (0, "")
    assert "aima@alpha: OK" in status.stdout


def test_celery_inspect_lists_the_queues_of_the_worker(celery):
    queues = celery("inspect", "--timeout", ANSWERS_WITHIN, *OF_THE_WORKER, "active_queues")

    assert (queues.returncode, queues.stderr) == (0, "")
    assert "aima@alpha: OK" in queues.stdout
    assert "host.alpha" in queues.stdout


def test_importing_the_worker_app_reads_no_settings():
    command = [sys.executable, "-c", "import aima_worker.celery"]

    imported = subprocess.run(
        command, env={"AIMA_CONFIG": "/missing/aima.toml"}, capture_output=True, timeout=ENDS_WITHIN, check=False
    )

    assert imported.returncode == 0
