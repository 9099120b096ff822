"""The host's end of the line on which log lines are asked for and told; the other end is `aima_api/logs/channel.py`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from pydantic import BaseModel, ValidationError

from aima_core.domain.ids import AnswerId, HostName, InstanceId
from aima_core.errors import BadId
from aima_core.logs.protocol import LastLines, LogBatch, LogChunk, LogRequest
from aima_core.redis import keys
from aima_core.redis.interface import TextPipeline, TextRedis


class NotUnderstood(Exception):
    """What was asked is no question of this version's."""


class LogChannel:
    """Every call may raise BrokerUnavailable."""

    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis

    def next_ask(self, host: HostName, *, within: timedelta) -> LogRequest | None:
        """What the host is asked next; None if it is nothing for so long. Raises NotUnderstood."""
        found = self._redis.blpop(keys.asked(host), timeout=within.total_seconds())
        try:
            return LogRequest.model_validate_json(found[1]) if found else None
        except (ValidationError, BadId) as wrong:
            raise NotUnderstood(str(wrong)) from wrong

    def answer(self, id: AnswerId, piece: LogChunk) -> None:
        with self._redis.pipeline() as pipe:
            _append(pipe, keys.answer(id), piece, expires=keys.ANSWER_TTL)
            pipe.execute()

    def publish(self, batches: Iterable[tuple[InstanceId, LogBatch]]) -> None:
        with self._redis.pipeline() as pipe:
            for instance, batch in batches:
                _append(pipe, keys.lines(instance), batch, expires=keys.LINES_TTL, cap=keys.LINES_CAP)
            pipe.execute()

    def keep(self, last: Iterable[tuple[InstanceId, LastLines]]) -> None:
        expires = round(keys.LAST_LINES_TTL.total_seconds() * 1000)
        with self._redis.pipeline() as pipe:
            for instance, lines in last:
                pipe.set(keys.last_lines(instance), lines.model_dump_json(), px=expires)
            pipe.execute()

    def wake(self, host: HostName) -> None:
        """Let whoever waits for the next question go on without one."""
        self._redis.rpush(keys.asked(host), "")
        self._redis.expire(keys.asked(host), keys.ASKED_TTL)


def _append(pipe: TextPipeline, key: str, piece: BaseModel, *, expires: timedelta, cap: int | None = None) -> None:
    pipe.xadd(key, {"json": piece.model_dump_json(exclude_defaults=True)}, maxlen=cap)
    pipe.expire(key, expires)
