"""The Celery application that an operator names: `celery -A aima_worker.celery status`, `… inspect active_queues`.

`app` is made from aima.toml and the environment at the first access, not at import. It reads the fleet's workers over
the broker; it registers no tasks, since a worker is started by `aima worker`.
"""

from datetime import timedelta
from functools import cache

from celery import Celery

from aima_core.queue.celery_app import celery_app
from aima_core.settings import load_settings

ANSWER_TIMEOUT = timedelta(seconds=10)


def __getattr__(name: str) -> Celery:
    if name == "app":
        return _app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _app() -> Celery:
    return celery_app(load_settings().redis.url.get_secret_value(), answer_within=ANSWER_TIMEOUT)
