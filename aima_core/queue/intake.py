"""What a worker accepts from Celery's queues and its control channel: what AIMA, Flower and `celery inspect` send.

Celery carries out far more than AIMA uses: delays, expiry, retries, groups, callbacks, patterns for worker names. A
message with any of them is refused before it reaches Celery, which would hoard it, or match a pattern for hours.
"""

import json
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Kind
from aima_core.queue.notifier import own_message, task_name

_ITS_OWN = {"id", "root_id", "correlation_id", "task", "argsrepr", "kwargsrepr", "origin", "delivery_tag"}
"""Fields whose text differs from message to message."""
_REDELIVERED = {"redelivered"}
"""Added by kombu when it requeues a message."""
_KINDS = {task_name(kind): kind for kind in Kind}
_MAX_CLOCK = 1 << 62
_CONTROL_FIELDS = {"method", "arguments", "destination", "pattern", "matcher", "ticket", "reply_to"}


def check_task(message: Mapping[str, Any]) -> None:
    """Raises ValueError, BadId, or another exception of a malformed value, unless `encode_message` writes it so."""
    args, kwargs, embedded = json.loads(b64decode(message["body"], validate=True))
    headers, properties = message["headers"], message["properties"]
    kind = _KINDS[headers["task"]]
    own, (_, _, own_embedded) = own_message(kind, has_what="what" in kwargs, has_engine="engine" in kwargs)
    _check(not kwargs.keys() - {"what", "engine", "where"}, "keyword arguments")
    _check(all(isinstance(value, str) for value in kwargs.values()), "keyword arguments")
    _check(args == [OperationId(headers["id"])], "arguments")
    _check(embedded == own_embedded, "callbacks")
    _check(all(message[name] == own[name] for name in ("content-type", "content-encoding")), "content type")
    _check_fields(headers, own["headers"], "header")
    _check_fields({**properties, "delivery_info": None}, {**own["properties"], "delivery_info": None}, "property")
    expected = {"exchange": "", "routing_key": kwargs["where"]}
    _check_fields(properties["delivery_info"], expected, "delivery_info")


def check_control(body: Any, headers: Mapping[str, Any]) -> None:
    """Raises ValueError unless it has the shape of a command that Flower or `celery inspect` sends."""
    _check(isinstance(body, dict) and not body.keys() - _CONTROL_FIELDS, "fields")
    _check(isinstance(body.get("method"), str), "method")
    _check(body.get("pattern") is None and body.get("matcher") is None, "pattern")
    _check(isinstance(body.get("arguments") or {}, dict), "arguments")
    destination, reply_to = body.get("destination"), body.get("reply_to")
    _check(destination is None or (isinstance(destination, list) and all(map(_is_text, destination))), "destination")
    _check(reply_to is None or (_is_text(reply_to["exchange"]) and _is_text(reply_to["routing_key"])), "reply_to")
    clock = headers.get("clock") or 0
    _check(isinstance(clock, int) and 0 <= clock < _MAX_CLOCK, "clock")


def _check_fields(given: Mapping[str, Any], own: Mapping[str, Any], what: str) -> None:
    for name in given.keys() | own.keys():
        if name in _REDELIVERED:
            continue
        _check(name in given and name in own, f"{what} {name}")
        _check(_is_text(given[name]) if name in _ITS_OWN else given[name] == own[name], f"{what} {name}")


def _check(is_own: bool, what: str) -> None:
    if not is_own:
        raise ValueError(f"its {what[:100]} is not as AIMA sends it")


def _is_text(value: object) -> bool:
    return isinstance(value, str)
