"""A worker ends soon after it is told to, whatever does not answer."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from lab.parts import eventually
from lab.wishes import SIGNING_KEY

from aima_core.redis import keys

pytestmark = pytest.mark.redis

ENDS_WITHIN_SECONDS = 3.0


@pytest.fixture
def worker(own_redis, tmp_path):
    """A worker in a process of its own, which takes work."""
    told = {
        "AIMA_CONFIG": os.devnull,
        "AIMA_REDIS__URL": own_redis.url,
        "AIMA_SIGNING_KEY": SIGNING_KEY.get_secret_value(),
        "AIMA_RUNTIME": "fake",
        "AIMA_STATE_DIR": str(tmp_path / "state"),
        "AIMA_HOST__NAME": "alpha",
    }
    with (tmp_path / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "aima_worker"], env={**os.environ, **told}, stdout=log, stderr=log
        )
    with own_redis.client() as client:
        # Its last step before it takes work is to bind its queues.
        bound = "aima:_kombu.binding_permanent.host.alpha"
        assert eventually(lambda: client.exists(bound) == 1), (tmp_path / "worker.log").read_text()
        assert client.hexists(keys.HOSTS_SESSIONS, "alpha")
    yield process
    process.kill()
    process.wait()


def seconds_to_end(process):
    begun = time.monotonic()
    process.terminate()
    assert process.wait(10 * ENDS_WITHIN_SECONDS) == 0
    return time.monotonic() - begun


def test_a_worker_ends_within_three_seconds(worker):
    assert seconds_to_end(worker) < ENDS_WITHIN_SECONDS


def test_a_worker_ends_within_three_seconds_while_redis_is_frozen(own_redis, worker):
    own_redis.freeze()

    taken = seconds_to_end(worker)

    own_redis.thaw()
    assert taken < ENDS_WITHIN_SECONDS + 0.5  # which is the machine's own, when it is busy
