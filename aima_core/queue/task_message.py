"""A task's message, as Celery's protocol (version 2) and kombu's Redis transport have it.

Written here and not by Celery, so that a script in Redis can put one on its queue in the same step that puts down what
it is about. A test holds it against what Celery itself writes.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from secrets import token_hex
from typing import Any

QUEUE = "<queue>"
"""Stands for the queue's name in what a message tells of its task."""
_NOTHING_AFTERWARDS = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class TaskMessages:
    """Messages of one task that are alike but for the id, which is their only argument, and the queue.

    Built once and filled in for each, since thousands are written in one request. What is filled in is to be plain:
    letters, digits, dots and dashes.
    """

    def __init__(self, task: str, kwargs: Mapping[str, str]) -> None:
        args = ["<id>"]
        self._body = json.dumps([args, kwargs, _NOTHING_AFTERWARDS])
        message = {
            "body": "<body>",
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {**_headers(task), "argsrepr": repr(args), "kwargsrepr": repr(kwargs)},
            "properties": _properties(),
        }
        self._message = json.dumps(message)

    def message(self, id: str, queue: str) -> str:
        """To be pushed onto the queue's list; each call gives another delivery, or a worker would mix two up."""
        body = _filled(self._body, id, queue)
        message = _filled(self._message, id, queue).replace("<delivery>", token_hex(16))
        return message.replace("<body>", b64encode(body.encode()).decode())


def _filled(text: str, id: str, queue: str) -> str:
    return text.replace("<id>", id).replace(QUEUE, queue)


def _headers(task: str) -> dict[str, Any]:
    return {
        "lang": "py",
        "task": task,
        "id": "<id>",
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": "<id>",
        "parent_id": None,
        "origin": "aima",
        "ignore_result": None,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }


def _properties() -> dict[str, Any]:
    return {
        "correlation_id": "<id>",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": QUEUE},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": "<delivery>",
    }
