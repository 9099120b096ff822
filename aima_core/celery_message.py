"""A task's message, as Celery's protocol (version 2) and kombu's Redis transport have it.

Written here and not by Celery, so that a script in Redis can put one on its queue in the same step that puts down what
it is about. A test holds it against what Celery itself writes.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

_NOTHING_AFTERWARDS = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def task_message(task: str, id: str, *, args: Sequence[str], kwargs: Mapping[str, str], queue: str) -> str:
    """To be pushed onto the queue's list; each call gives another delivery, or a worker would mix two up."""
    body = json.dumps([args, kwargs, _NOTHING_AFTERWARDS])
    message = {
        "body": b64encode(body.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {**_headers(task, id), "argsrepr": repr(args), "kwargsrepr": repr(kwargs)},
        "properties": _properties(id, queue),
    }
    return json.dumps(message)


def _headers(task: str, id: str) -> dict[str, Any]:
    return {
        "lang": "py",
        "task": task,
        "id": id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": id,
        "parent_id": None,
        "origin": "aima",
        "ignore_result": None,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }


def _properties(id: str, queue: str) -> dict[str, Any]:
    return {
        "correlation_id": id,
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": queue},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": str(uuid4()),
    }
