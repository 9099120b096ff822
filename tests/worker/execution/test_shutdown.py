"""A worker shuts down within its deadline, also while Redis does not answer."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from worker.conftest import wait_until_it_consumes

pytestmark = pytest.mark.redis

ENDS_WITHIN_SECONDS = 3.0
FOR_A_BUSY_MACHINE = 3.0
"""A worker without a deadline does not end at all while Redis is frozen."""


def seconds_to_end(process):
    begun = time.monotonic()
    process.terminate()
    assert process.wait(10 * ENDS_WITHIN_SECONDS) == 0
    return time.monotonic() - begun


def test_a_worker_shuts_down_within_three_seconds(worker):
    assert seconds_to_end(worker) < ENDS_WITHIN_SECONDS + FOR_A_BUSY_MACHINE


def test_a_worker_shuts_down_within_three_seconds_while_redis_is_frozen(own_redis, worker):
    own_redis.freeze()

    taken = seconds_to_end(worker)

    own_redis.thaw()
    assert taken < ENDS_WITHIN_SECONDS + FOR_A_BUSY_MACHINE


SIGNALLED_IN_A_FINALIZER = """
import os, signal, sys
from aima_core.settings import load_settings
from aima_worker import app

class Finalizer:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

def choose(settings, choose=app.choose_runtime):
    Finalizer()
    return choose(settings)

app.choose_runtime = choose
sys.exit(app.run_worker(load_settings()))
"""


def test_a_sigterm_whose_exception_is_lost_in_a_finalizer_still_ends_the_worker(worker_environment):
    ended = subprocess.run(
        [sys.executable, "-c", SIGNALLED_IN_A_FINALIZER], env=worker_environment, timeout=30, capture_output=True
    )

    assert b"Exception ignored" in ended.stderr
    assert ended.returncode == 0


SIGNALLED_AGAIN_BEFORE_IT_REQUEUES = """
import os, signal, sys
from aima_core.settings import load_settings
from aima_worker import app
from aima_worker.execution.claim_renewal import ClaimRenewer

def interrupted(claims, cancel_all=ClaimRenewer.cancel_all):
    ClaimRenewer.cancel_all = cancel_all
    os.kill(os.getpid(), signal.SIGQUIT)
    cancel_all(claims)
    print("operations cancelled", flush=True)

ClaimRenewer.cancel_all = interrupted
sys.exit(app.run_worker(load_settings()))
"""


def test_a_second_signal_during_the_handler_of_the_first_does_not_end_it(own_redis, worker_environment, tmp_path):
    log = tmp_path / "worker.log"
    with log.open("ab") as output:
        words = [sys.executable, "-c", SIGNALLED_AGAIN_BEFORE_IT_REQUEUES]
        signalled = subprocess.Popen(words, env=worker_environment, stdout=output, stderr=output)
    try:
        wait_until_it_consumes(own_redis, log)

        signalled.terminate()
        signalled.wait(10 * ENDS_WITHIN_SECONDS)
    finally:
        signalled.kill()
        signalled.wait()

    assert "operations cancelled" in log.read_text()
