"""The Celery worker of a host: what it takes from its queues, and how many at once.

Starts and pulls are taken as there are slots for them, so that what a busy host cannot begin stays on the queue for
others. Stops come over a channel of their own, which no start can fill.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Timer
from typing import Any

import structlog
from celery import Celery, bootsteps
from kombu import Consumer, Queue
from kombu.common import ignore_errors

from aima_core.domain.ids import Route

STOP_SLOTS = 4
"""Threads beyond the start slots, so that stops never wait behind starts."""


HEARTBEAT_SECONDS = 10.0
"""Between two events that tell Flower of the worker."""


def make_celery_worker(app: Celery, *, name: str, routes: tuple[Route, ...], stops: str, slots: int) -> Any:
    """`routes` are the queues of starts and pulls, `stops` the one of stops."""
    app.steps["consumer"].add(_taking_stops_from(stops))
    worker: Any = app.Worker(
        pool="threads",  # a task on a thread hears of the worker's end, and can be interrupted; a forked one cannot
        concurrency=slots + STOP_SLOTS,
        queues=list(routes),
        hostname=name,
        without_gossip=True,  # grows with the square of the hosts
        without_mingle=True,
        heartbeat_interval=HEARTBEAT_SECONDS,
        loglevel="WARNING",
        quiet=True,
    )
    worker.consumer.initial_prefetch_count = slots
    # Refused rather than taken for done, so that it is counted with all else that makes no sense.
    worker.consumer.on_decode_error = lambda message, wrong: worker.consumer.on_invalid_task(None, message, wrong)
    restrict_remote_control(worker)
    return worker


def _taking_stops_from(queue: str) -> type[bootsteps.StartStopStep]:
    class Stops(bootsteps.StartStopStep):
        requires = ("celery.worker.consumer:Tasks",)

        def __init__(self, c: Any, **options: Any) -> None:
            self._channel: Any = None
            super().__init__(c, **options)

        def start(self, c: Any) -> None:
            self._channel = c.connection.channel()
            self._channel.basic_qos(0, STOP_SLOTS, False)
            stops = Consumer(self._channel, [Queue(queue)], on_message=c.create_task_handler(), accept=["json"])
            stops.on_decode_error = c.on_decode_error
            stops.consume()

        def stop(self, c: Any) -> None:
            channel, self._channel = self._channel, None
            if channel is not None and c.connection is not None:  # which has closed its channels when it was lost
                ignore_errors(c.connection, channel.close)

        shutdown = stop

    return Stops


SHOWS = frozenset(
    {"ping", "stats", "active_queues", "registered", "active", "reserved", "scheduled", "revoked", "conf", "heartbeat"}
)
TELLS = frozenset({"enable_events", "disable_events"})
"""Whether it tells of tasks; they cost Redis two commands each, and are lost on nobody but Flower."""
_CONTROL = "celery.worker.consumer.control.Control"


def restrict_remote_control(worker: Any) -> None:
    """Before it begins. Raises KeyError where Celery has another way to be controlled than is known here."""
    node = worker.consumer.blueprint.steps[_CONTROL].box.node
    node.handlers = {name: node.handlers[name] for name in SHOWS | TELLS}


SECONDS_TO_END = 2.5

_log = structlog.get_logger()


def exit_within_deadline(exit_code: Callable[[], int]) -> None:
    """Let this process live no longer than SECONDS_TO_END."""

    def leave() -> None:
        _log.warning("ended without waiting any longer", why="something does not answer")
        os._exit(exit_code())

    timer = Timer(SECONDS_TO_END, leave)
    timer.daemon = True
    timer.start()
