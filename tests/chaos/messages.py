"""Faults of Redis and of the queues: cut connections, lost messages, and duplicate or late delivery."""

from __future__ import annotations

import json
import time

from chaos.plan import Step
from redis import Redis

from aima_core.domain.ids import OperationId
from aima_core.queue.notifier import Notifier
from aima_core.redis import keys
from aima_core.redis.connection import RedisClient
from aima_core.store.operations import OperationStore

WAITS_SECONDS = 0.5
UNACKED = keys.queue("unacked")


def queues(redis: Redis) -> dict[str, list[str]]:
    """The queued messages, by queue."""
    names = sorted(key for key in redis.scan_iter(match=f"{keys.PREFIX}*", count=1000, _type="list"))
    return {name: redis.lrange(name, 0, -1) for name in names if not name.startswith(keys.asked("").rstrip(":"))}


def unacked(redis: Redis) -> dict[str, str]:
    """The operations of unacknowledged messages, by delivery."""
    return {tag: json.loads(text)[0]["headers"]["id"] for tag, text in redis.hgetall(UNACKED).items()}


def lose_one(redis: Redis, step: Step) -> str:
    """Removes a message from its queue, or an unacknowledged one if none is queued soon."""
    deadline = time.monotonic() + WAITS_SECONDS
    while time.monotonic() < deadline:
        waiting = [(queue, message) for queue, messages in queues(redis).items() for message in messages]
        if waiting:
            queue, message = step.one_of(waiting)
            gone = redis.lrem(queue, 1, message)
            id = json.loads(message)["headers"]["id"]
            return f"{queue.removeprefix(keys.PREFIX)}: {id}{'' if gone else ', which was gone'}"
    if taken := sorted(unacked(redis).items()):
        tag, operation = step.one_of(taken)
        redis.hdel(UNACKED, tag)
        return f"taken: {operation}"
    return "none was there"


def redeliver(redis: RedisClient, step: Step) -> str:
    """Sends a duplicate message of any past operation."""
    recorded = redis.zrange(keys.OPERATIONS, 0, -1)
    if not recorded:
        return "none was there"
    id = OperationId(step.one_of(recorded).split()[-1])
    Notifier(redis).notify(operation := OperationStore(redis).get(id))
    return f"{id}, {operation.state}"


def cut_all(redis: Redis) -> str:
    return f"{redis.client_kill_filter(_type='normal', skipme=True)} of them"


def cut_one(redis: Redis, step: Step) -> str:
    clients = sorted(redis.client_list(), key=lambda each: int(each["id"]))
    one = step.one_of(clients)
    redis.client_kill_filter(_id=one["id"])
    return f"{one['name'] or one['addr']}, whose last command was {one['cmd']}"
