"""Task names, queue names and messages; a message only notifies a worker that an operation is queued.

What to do is in the operation's signed record. So a lost, late or duplicated message loses and duplicates nothing.
"""

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from secrets import token_hex
from typing import Any, NamedTuple

from aima_core.domain.ids import HostName, Route
from aima_core.domain.operations import Kind, Operation
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis

_ID, _QUEUE, _WHAT, _ENGINE, _BODY, _TAG = "<id>", "<to>", "<what>", "<engine>", "<body>", "<tag>"
_OWN_VALUE = re.compile("<(id|to|body|tag)>")


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
        _texts(Kind.START, True, True)  # loads Celery now rather than in the first request

    def notify(self, operation: Operation, *, on: str | None = None) -> None:
        """Pushes to the operation's queue, or to another that a worker consumes. Raises BrokerUnavailable."""
        queue = on or queue_of(operation)
        self._redis.lpush(keys.queue(queue), encode_message(operation, queue))


def encode_message(operation: Operation, queue: str) -> str:
    """The message to push to the queue's list; each call makes a new delivery, with a tag of its own."""
    return _filled(message_template(operation), message_values(operation, queue))


def message_template(operation: Operation) -> list[str]:
    """What the messages of operations with one subject share: texts, and between two of them the name of a value."""
    return _templates_of(operation).message


def message_values(operation: Operation, queue: str) -> dict[str, str]:
    """Those of one delivery, by name."""
    own = {"id": operation.id, "to": queue}
    body = b64encode(_filled(_templates_of(operation).body, own).encode()).decode()
    return {**own, "body": body, "tag": token_hex(16)}


@cache
def own_message(kind: Kind, *, has_what: bool, has_engine: bool) -> tuple[dict[str, Any], list[Any]]:
    """A message as AIMA sends it, with placeholders for what differs, and its decoded body."""
    texts = _texts(kind, has_what, has_engine)
    return json.loads(texts.message), json.loads(texts.body)


class _Texts(NamedTuple):
    """With placeholders."""

    message: str
    body: str


class _Templates(NamedTuple):
    message: list[str]
    body: list[str]


def _templates_of(operation: Operation) -> _Templates:
    return _templates(operation.kind, operation.service or operation.image or "", operation.engine or "")


@lru_cache(maxsize=256)
def _templates(kind: Kind, what: str, engine: str) -> _Templates:
    return _Templates(*(_cut(text, what, engine) for text in _texts(kind, bool(what), bool(engine))))


def _cut(text: str, what: str, engine: str) -> list[str]:
    return [piece.replace(_WHAT, what).replace(_ENGINE, engine) for piece in _OWN_VALUE.split(text)]


def _filled(template: Sequence[str], values: Mapping[str, str]) -> str:
    return "".join([values[piece] if at % 2 else piece for at, piece in enumerate(template)])


@cache
def _texts(kind: Kind, has_what: bool, has_engine: bool) -> _Texts:
    """Encoded once by Celery and kombu, and filled in for each operation: one request may enqueue thousands."""
    from aima_core.queue.celery_app import sent_message  # only here: importing Celery takes a third of a second

    kwargs = {"what": _WHAT} if has_what else {}
    kwargs |= {"engine": _ENGINE} if has_engine else {}
    message = sent_message(task_name(kind), _ID, kwargs={**kwargs, "where": _QUEUE}, queue=_QUEUE)
    body = b64decode(message["body"]).decode()
    message["properties"]["delivery_tag"] = _TAG
    return _Texts(json.dumps({**message, "body": _BODY}), body)
