"""The queue: what its tasks are called, where each kind of operation waits, and the doorbell that rings for one.

A message carries the operation's id and a few words for whoever looks at Flower; what is to be done is in the
operation's signed record. It may be lost, doubled or late, and nothing is lost, doubled or late with it.
"""

from __future__ import annotations

from functools import lru_cache

from aima_core.domain.ids import HostName, Route
from aima_core.domain.operations import Kind, Operation
from aima_core.queue.task_message import QUEUE, TaskMessages
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis


def task_name(kind: Kind) -> str:
    return f"aima.{kind}"


def queue_of(operation: Operation) -> str:
    """Stops have a queue of their own on every host, so that none ever waits behind a start."""
    if operation.kind is Kind.STOP and operation.route.host:
        return stop_queue(operation.route.host)
    return str(operation.route)


def stop_queue(host: HostName) -> str:
    return f"{Route.to_host(host)}.stop"


def encode_message(operation: Operation, queue: str) -> str:
    """The message that rings for an operation; a worker reads nothing but the id, the rest is for Flower."""
    return _messages(operation.kind, operation.service or operation.image, operation.engine).message(
        operation.id, queue
    )


@lru_cache(maxsize=1024)
def _messages(kind: Kind, what: str | None, engine: str | None) -> TaskMessages:
    told = {"what": what, "engine": engine, "where": QUEUE}
    return TaskMessages(task_name(kind), {name: str(value) for name, value in told.items() if value is not None})


class Notifier:
    """Tells workers again of an operation that nobody carries out."""

    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis

    def notify(self, operation: Operation, *, on: str | None = None) -> None:
        """On its own queue, or on another where somebody listens. Raises BrokerUnavailable within seconds."""
        queue = on or queue_of(operation)
        self._redis.lpush(keys.queue(queue), encode_message(operation, queue))
