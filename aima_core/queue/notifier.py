"""Task names, queue names and messages; a message only notifies a worker that an operation is queued.

What to do is in the operation's signed record. So a lost, late or duplicated message loses and duplicates nothing.
"""

import json
from base64 import b64decode, b64encode
from functools import cache
from secrets import token_hex
from typing import Any, NamedTuple

from aima_core.domain.ids import HostName, Route
from aima_core.domain.operations import Kind, Operation
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis

_ID, _QUEUE, _WHAT, _ENGINE, _BODY, _DELIVERY = "<id>", "<queue>", "<what>", "<engine>", "<body>", "<delivery>"


def task_name(kind: Kind) -> str:
    return f"aima.{kind}"


def queue_of(operation: Operation) -> str:
    """Stops have a queue of their own on every host, so that none ever waits behind a start."""
    if operation.kind is Kind.STOP and operation.route.host:
        return stop_queue(operation.route.host)
    return str(operation.route)


def stop_queue(host: HostName) -> str:
    return f"{Route.to_host(host)}.stop"


class Notifier:
    """Sends the message of an operation again, where the first was lost or its worker has died."""

    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis
        _template(Kind.START, True, True)  # loads Celery now rather than in the first request

    def notify(self, operation: Operation, *, on: str | None = None) -> None:
        """Pushes to the operation's queue, or to another that a worker consumes. Raises BrokerUnavailable."""
        queue = on or queue_of(operation)
        self._redis.lpush(keys.queue(queue), encode_message(operation, queue))


def encode_message(operation: Operation, queue: str) -> str:
    """The message to push to the queue's list; each call makes a new delivery, with a tag of its own."""
    what, engine = operation.service or operation.image or "", operation.engine or ""
    template = _template(operation.kind, bool(what), bool(engine))
    values = {_ID: operation.id, _QUEUE: queue, _WHAT: what, _ENGINE: engine}
    body = b64encode(_fill(template.body, values).encode()).decode()
    return _fill(template.message, {**values, _BODY: body, _DELIVERY: token_hex(16)})


@cache
def own_message(kind: Kind, *, has_what: bool, has_engine: bool) -> tuple[dict[str, Any], list[Any]]:
    """A message as AIMA sends it, with placeholders for what differs, and its decoded body."""
    template = _template(kind, has_what, has_engine)
    return json.loads(template.message), json.loads(template.body)


class _Template(NamedTuple):
    message: str
    body: str


@cache
def _template(kind: Kind, has_what: bool, has_engine: bool) -> _Template:
    """Encoded once by Celery and kombu, and filled in for each operation: one request may enqueue thousands."""
    from aima_core.queue.celery_app import sent_message  # only here: importing Celery takes a third of a second

    kwargs = {"what": _WHAT} if has_what else {}
    kwargs |= {"engine": _ENGINE} if has_engine else {}
    message = sent_message(task_name(kind), _ID, kwargs={**kwargs, "where": _QUEUE}, queue=_QUEUE)
    body = b64decode(message["body"]).decode()
    message["properties"]["delivery_tag"] = _DELIVERY
    return _Template(json.dumps({**message, "body": _BODY}), body)


def _fill(text: str, values: dict[str, str]) -> str:
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text
