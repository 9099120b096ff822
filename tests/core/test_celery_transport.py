"""What a worker's line to Redis outlives."""

from __future__ import annotations

import pytest
from kombu import Queue

from aima_core.celery_app import celery_app

pytestmark = pytest.mark.redis


def test_a_channel_whose_connection_was_given_up_closes_all_the_same(redis_url):
    """Celery gives a lost connection up first, and closes its channels then, if they could not be closed before."""
    with celery_app(redis_url, answer_within=1).connection() as line:
        channel = line.default_channel
        waiting = Queue("tests")(channel)
        waiting.declare()
        channel.basic_publish(channel.prepare_message("taken, and not acknowledged"), exchange="", routing_key="tests")
        assert waiting.get() is not None

        line.transport.client = None
        channel.close()

        assert channel.closed
