"""A Celery application with default settings, closed afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from celery import Celery
from kombu import pools

from aima_core.queue.celery_app import celery_app


@contextmanager
def a_celery(redis_url: str, *, answer_within: timedelta = timedelta(seconds=5)) -> Iterator[Celery]:
    app = celery_app(redis_url, answer_within=answer_within)
    try:
        yield app
    finally:
        app.close()
        pools.reset()  # in which kombu keeps the connections of an application
