"""The Celery application that a user would write in place of AIMA: one task, and nothing set but the broker."""

from __future__ import annotations

import os

from celery import Celery

BROKER = "BENCH_BROKER"
QUEUE = "bench"
TASK = "rival.start"


def start(service: str, engine: str) -> None:
    """Nobody carries it out: what counts is how it is asked for."""


def application(broker: str | None) -> Celery:
    app = Celery("rival", broker=broker)
    app.task(start, name=TASK)
    return app


app = application(os.environ.get(BROKER))
"""As Flower takes it."""
