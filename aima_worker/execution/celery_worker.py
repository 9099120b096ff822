"""The Celery worker of a host: its tasks, queues, concurrency and remote control.

Starts and pulls are fetched only while slots are free, so that what a busy host cannot begin stays on the queue for
other hosts. Stops have a channel of their own, so that they never queue behind starts.
"""

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from celery import Celery, bootsteps
from celery.exceptions import Reject
from celery.platforms import EX_FAILURE
from kombu import Consumer, Queue
from kombu.common import ignore_errors
from redis import ResponseError

from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Kind
from aima_core.errors import BadId, BrokerUnavailable, CorruptData
from aima_core.queue.intake import check_control, check_task
from aima_core.queue.notifier import stop_queue, task_name
from aima_worker.attempt import WorkerShutdown
from aima_worker.context import HostContext
from aima_worker.execution.executor import execute
from aima_worker.execution.shutdown import request_shutdown

STOP_SLOTS = 4
"""Threads beyond the slots of starts and pulls."""
EVENT_INTERVAL = timedelta(seconds=10)
"""Between two worker events, for Flower."""
READING_COMMANDS = frozenset(
    {"ping", "stats", "active_queues", "registered", "active", "reserved", "scheduled", "revoked", "conf", "heartbeat"}
)
EVENT_COMMANDS = frozenset({"enable_events", "disable_events"})
"""Task events cost Redis two commands each; Flower enables them while it runs."""
_CONTROL = "celery.worker.consumer.control.Control"


def make_celery_worker(app: Celery, host: HostContext) -> Any:
    add_tasks(app, host)
    app.steps["consumer"].add(_consume_stops_from(stop_queue(host.name)))
    slots = host.settings.host.slots
    worker: Any = app.Worker(
        pool="threads",  # a task on a thread can be cancelled at shutdown; a forked one cannot
        concurrency=slots + STOP_SLOTS,
        queues=list(host.routes),
        hostname=f"aima@{host.name}",
        without_gossip=True,  # it grows with the square of the hosts
        without_mingle=True,
        heartbeat_interval=EVENT_INTERVAL.total_seconds(),
        loglevel="WARNING",
        quiet=True,
    )
    worker.consumer.initial_prefetch_count = slots
    # Rejected instead of acknowledged, so that it is counted with all other malformed messages.
    worker.consumer.on_decode_error = lambda message, wrong: worker.consumer.on_invalid_task(None, message, wrong)
    worker.consumer.cancel_active_requests = _shut_down_at_sigquit
    _restrict_remote_control(worker)
    _accept_only_own_messages(worker.consumer)
    return worker


def add_tasks(app: Celery, host: HostContext) -> None:
    """One per kind of operation. An operation that could not be finished is requeued; a malformed id is dropped."""

    def run_task(*arguments: Any, **_: Any) -> None:
        try:
            execute(host, OperationId(" ".join(map(str, arguments))))
        except (WorkerShutdown, BrokerUnavailable) as unfinished:
            raise Reject(str(unfinished), requeue=True) from unfinished
        except (BadId, CorruptData) as malformed:
            raise Reject(str(malformed), requeue=False) from malformed

    for kind in Kind:
        app.task(name=task_name(kind), shared=False)(run_task)  # shared, every application of the process would have it


def _shut_down_at_sigquit() -> None:
    """As at SIGTERM, also if that came just before. Celery would kill the processes of tasks, which threads lack."""
    request_shutdown()  # Celery's signal is sent after this, and takes a lock that the handler of SIGTERM may hold
    sys.exit(EX_FAILURE)


def _consume_stops_from(queue: str) -> type[bootsteps.StartStopStep]:
    class StopChannel(bootsteps.StartStopStep):
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
            if channel is not None and c.connection is not None:  # a lost connection has closed its channels
                ignore_errors(c.connection, channel.close)

        shutdown = stop

    return StopChannel


def _accept_only_own_messages(consumer: Any) -> None:
    """Refuses a message of another shape than AIMA's before Celery reads it; the transport drops and counts it."""
    make_task_handler = consumer.create_task_handler

    def create_task_handler() -> Callable[[Any], None]:
        handle = make_task_handler()

        def receive(message: Any) -> None:
            check_task(message._raw)
            handle(message)

        return receive

    consumer.create_task_handler = create_task_handler


def _restrict_remote_control(worker: Any) -> None:
    """Before it starts: commands may read the worker, never change it. Raises KeyError if Celery's node has moved.

    A malformed command raises, so that the transport drops and counts it; Celery itself would open another channel.
    """
    box = worker.consumer.blueprint.steps[_CONTROL].box
    box.node.handlers = {name: box.node.handlers[name] for name in READING_COMMANDS | EVENT_COMMANDS}

    def receive(body: Any, message: Any) -> None:
        check_control(body, message.headers)
        try:
            box.node.handle_message(body, message)
        except ResponseError as refused:  # the reply could not be sent: no reason to connect again
            raise ValueError(str(refused)) from refused

    box.on_message = receive
