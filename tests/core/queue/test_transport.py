"""The worker's Celery transport survives lost connections and late acknowledgements."""

from __future__ import annotations

from datetime import timedelta

import pytest
from kombu import Queue

from aima_core.queue.celery_app import celery_app

pytestmark = pytest.mark.redis


@pytest.fixture
def line(redis_url):
    with celery_app(redis_url, answer_within=timedelta(seconds=1)).connection() as line:
        yield line


@pytest.fixture
def taken(line):
    """A message that was delivered and not acknowledged."""
    channel = line.default_channel
    waiting = Queue("tests")(channel)
    waiting.declare()
    channel.basic_publish(channel.prepare_message("taken"), exchange="", routing_key="tests")
    taken = waiting.get()
    assert taken is not None
    return taken


def test_a_channel_whose_connection_was_lost_closes_without_an_error(line, taken):
    """Celery drops a lost connection first and then closes its channels, unless they were closed before."""
    line.transport.client = None

    taken.channel.close()

    assert taken.channel.closed


@pytest.mark.parametrize("said_of_it", ["ack", "reject", "requeue"])
def test_a_task_that_ends_after_its_channel_was_closed_raises_nothing(taken, said_of_it):
    taken.channel.close()

    getattr(taken, said_of_it)()

    assert taken.acknowledged
