"""The queue: one Celery application, its settings with their reasons, and the doorbell that rings for an operation.

A message carries the operation's id and a few words for whoever looks at Flower; what is to be done is in the
operation's signed record. It may be lost, doubled or late, and nothing is lost, doubled or late with it.
"""

from __future__ import annotations

from collections.abc import Iterable

from celery import Celery
from kombu.exceptions import OperationalError
from redis import RedisError

from aima_core import keys
from aima_core.failures import BrokerUnavailable
from aima_core.ids import HostName, Route
from aima_core.operations import Kind, Operation


def task_name(kind: Kind) -> str:
    return f"aima.{kind}"


def queue_of(operation: Operation) -> str:
    """Stops have a queue of their own on every host, so that none ever waits behind a start."""
    if operation.kind is Kind.STOP and operation.route.host:
        return stop_queue(operation.route.host)
    return str(operation.route)


def stop_queue(host: HostName) -> str:
    return f"{Route.to_host(host)}.stop"


def celery_app(redis_url: str, *, answer_within: float) -> Celery:
    """The application both sides use; `answer_within` is how many seconds Redis may take over one command."""
    app = Celery("aima", broker=_verified(redis_url), set_as_current=False)
    app.conf.update(
        result_backend=None,  # with one, a submission without Redis hangs for 19 s, and what was done is done twice
        task_ignore_result=True,
        task_acks_late=True,  # a worker that dies leaves its message to be delivered again
        worker_prefetch_multiplier=1,  # and hoards nothing that another could run
        task_acks_on_failure_or_timeout=True,
        task_reject_on_worker_lost=False,
        task_serializer="json",
        accept_content=["json"],  # a pickled message is refused
        task_default_queue="unrouted",
        task_create_missing_queues=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # a worker outlives any outage of Redis
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=True,  # for Flower
        task_send_sent_event=True,
        worker_hijack_root_logger=False,
        broker_transport_options={
            "global_keyprefix": keys.PREFIX,
            "visibility_timeout": 300,  # a redelivered message is recognised by its claim, so sooner is no danger
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "socket_timeout": answer_within,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    )
    return app


class Doorbell:
    """Tells workers that there is something to do."""

    def __init__(self, redis_url: str) -> None:
        self._app = celery_app(redis_url, answer_within=1)

    def ring(self, operation: Operation, *, also: Iterable[Route] = ()) -> None:
        """Put the operation's message on its queue, and on those of other routes: who claims it first carries it out.

        Raises BrokerUnavailable within seconds.
        """
        try:
            for queue in (queue_of(operation), *also):
                self._app.send_task(
                    task_name(operation.kind),
                    args=[operation.id],
                    kwargs={"what": operation.service or operation.image},
                    task_id=operation.id,
                    queue=str(queue),  # by name: an exchange and key without a binding would drop it silently
                )
        except (OperationalError, RedisError, OSError) as failed:
            raise BrokerUnavailable(detail=str(failed)) from failed


def _verified(redis_url: str) -> str:
    """`rediss://` alone would take any certificate."""
    if redis_url.startswith("rediss://") and "ssl_cert_reqs" not in redis_url:
        return f"{redis_url}{'&' if '?' in redis_url else '?'}ssl_cert_reqs=required"
    return redis_url
