"""A worker shuts down within its deadline, also while Redis does not answer."""

from __future__ import annotations

import time

import pytest

pytestmark = pytest.mark.redis

ENDS_WITHIN_SECONDS = 3.0


def seconds_to_end(process):
    begun = time.monotonic()
    process.terminate()
    assert process.wait(10 * ENDS_WITHIN_SECONDS) == 0
    return time.monotonic() - begun


def test_a_worker_shuts_down_within_three_seconds(worker):
    assert seconds_to_end(worker) < ENDS_WITHIN_SECONDS


def test_a_worker_shuts_down_within_three_seconds_while_redis_is_frozen(own_redis, worker):
    own_redis.freeze()

    taken = seconds_to_end(worker)

    own_redis.thaw()
    assert taken < ENDS_WITHIN_SECONDS + 0.5  # for a busy machine
