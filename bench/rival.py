"""The Celery application that a user would write instead of AIMA: one task, no settings but the broker."""

from __future__ import annotations

import os

from celery import Celery

BROKER = "BENCH_BROKER"
QUEUE = "bench"
TASK = "rival.start"


def start(service: str, engine: str) -> None:
    """Never executed: only its submission is measured."""


def application(broker: str | None) -> Celery:
    app = Celery("rival", broker=broker)
    app.task(start, name=TASK)
    return app


app = application(os.environ.get(BROKER))
"""As Flower accepts it."""
