"""The queue: what its tasks are called, where each kind of operation waits, and the doorbell that rings for one.

A message carries the operation's id and a few words for whoever looks at Flower; what is to be done is in the
operation's signed record. It may be lost, doubled or late, and nothing is lost, doubled or late with it.
"""

from __future__ import annotations

from collections.abc import Iterable

from kombu.exceptions import OperationalError
from redis import RedisError

from aima_core.celery_app import celery_app
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
