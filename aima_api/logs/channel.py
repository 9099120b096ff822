"""The API's end of the line on which log lines are asked for and told; see `aima_worker/logs/channel.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import ValidationError
from redis import RedisError
from redis.asyncio import Redis as AsyncRedis

from aima_core.domain.ids import AnswerId, InstanceId
from aima_core.errors import BrokerUnavailable
from aima_core.logs.protocol import LastLines, LogBatch, LogChunk, LogRequest
from aima_core.redis import keys

ANSWERS_WITHIN = timedelta(seconds=2)
"""For a command that does not wait."""
AT_ONCE = 64
"""Entries of a stream."""
BEGINNING = "0-0"
_T = TypeVar("_T")


class LogChannelClient:
    """Every call may raise BrokerUnavailable."""

    def __init__(self, redis: AsyncRedis) -> None:
        self._redis = redis

    async def ask(self, ask: LogRequest) -> None:
        key = keys.asked(ask.instance.host)
        pipe = self._redis.pipeline()
        pipe.rpush(key, ask.model_dump_json(exclude_defaults=True))
        pipe.ltrim(key, -keys.ASKED_CAP, -1)
        pipe.expire(key, keys.ASKED_TTL)
        await _within(ANSWERS_WITHIN, pipe.execute())

    async def answer(self, id: AnswerId, *, silence: timedelta) -> AsyncIterator[LogChunk]:
        """The pieces of an answer up to its end; ends early when nothing comes for so long."""
        place = BEGINNING
        while entries := await self._after(keys.answer(id), place, within=silence):
            place = entries[-1][0]
            for piece in [LogChunk.model_validate_json(text) for _, text in entries]:
                yield piece
                if piece.end is not None:
                    return

    async def batches(self, id: InstanceId, place: str, *, within: timedelta) -> tuple[str, list[LogBatch]]:
        """What was published after that place, as soon as there is something, and the place after it.

        The same place and nothing if that takes too long.
        """
        entries = await self._after(keys.lines(id), place, within=within)
        batches = [batch for _, text in entries if (batch := _batch(text)) is not None]
        return entries[-1][0] if entries else place, batches

    async def last_lines(self, id: InstanceId) -> LastLines | None:
        text = await _within(ANSWERS_WITHIN, self._redis.get(keys.last_lines(id)))
        return LastLines.model_validate_json(text) if text else None

    async def close(self) -> None:
        await self._redis.aclose()

    async def _after(self, key: str, place: str, *, within: timedelta) -> list[tuple[str, str]]:
        waits = max(1, round(within.total_seconds() * 1000))  # 0 would be for ever
        reading = self._redis.xread({key: place}, count=AT_ONCE, block=waits)
        found: Any = await _within(within + ANSWERS_WITHIN, reading)
        if isinstance(found, dict):  # as redis-py gives it under a newer protocol
            found = [(name, entries) for name, batches in found.items() for entries in batches]
        return [(id, fields["json"]) for _, entries in found or [] for id, fields in entries]


def _batch(text: str) -> LogBatch | None:
    """None for one of another version's; its reader sees by the count that something is missing."""
    try:
        return LogBatch.model_validate_json(text)
    except ValidationError:
        return None


async def _within(limit: timedelta, answer: Awaitable[_T]) -> _T:
    try:
        async with asyncio.timeout(limit.total_seconds()):
            return await answer
    except TimeoutError as late:
        raise BrokerUnavailable(detail="no answer in time") from late
    except (RedisError, OSError) as failed:
        raise BrokerUnavailable(detail=str(failed)) from failed
