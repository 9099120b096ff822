"""The API node's side of the log channels in Redis; the worker's side is `aima_worker/logs/channel.py`.

Every method may raise BrokerUnavailable.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import ValidationError
from redis import RedisError
from redis.asyncio import Redis as AsyncRedis

from aima_core.domain.ids import AnswerId, InstanceId
from aima_core.errors import BrokerUnavailable
from aima_core.logs.protocol import LastLines, LogBatch, LogChunk, LogRequest
from aima_core.redis import keys

COMMAND_TIMEOUT = timedelta(seconds=2)
"""Of a command that does not block."""
READ_COUNT = 64
"""Stream entries per command."""
BEGINNING = "0-0"
_T = TypeVar("_T")


class LogChannelClient:
    def __init__(self, redis: AsyncRedis) -> None:
        self._redis = redis

    async def send(self, request: LogRequest) -> None:
        key = keys.asked(request.instance.host)
        pipe = self._redis.pipeline()
        pipe.rpush(key, request.model_dump_json(exclude_defaults=True))
        pipe.ltrim(key, -keys.ASKED_CAP, -1)
        pipe.expire(key, keys.ASKED_TTL)
        await _within(COMMAND_TIMEOUT, pipe.execute())

    async def answer(self, id: AnswerId, *, within: timedelta) -> AsyncIterator[LogChunk]:
        """The chunks of an answer; ends early if none comes in time after the one before."""
        entry = BEGINNING
        while entries := await self._after(keys.answer(id), entry, within=within):
            entry = entries[-1][0]
            for chunk in [LogChunk.model_validate_json(text) for _, text in entries]:
                yield chunk
                if chunk.end is not None:
                    return

    async def batches(self, id: InstanceId, entry: str, *, within: timedelta) -> tuple[str, list[LogBatch]]:
        """The batches published after a stream entry, and the last entry; no batch and the same entry on timeout."""
        entries = await self._after(keys.lines(id), entry, within=within)
        batches = []
        for _, text in entries:
            with suppress(ValidationError):  # of another protocol version; its readers see a gap
                batches.append(LogBatch.model_validate_json(text))
        return entries[-1][0] if entries else entry, batches

    async def last_lines(self, id: InstanceId) -> LastLines | None:
        text = await _within(COMMAND_TIMEOUT, self._redis.get(keys.last_lines(id)))
        return LastLines.model_validate_json(text) if text else None

    async def close(self) -> None:
        await self._redis.aclose()

    async def _after(self, key: str, entry: str, *, within: timedelta) -> list[tuple[str, str]]:
        block = max(1, round(within.total_seconds() * 1000))  # 0 would block for ever
        reading = self._redis.xread({key: entry}, count=READ_COUNT, block=block)
        found: Any = await _within(within + COMMAND_TIMEOUT, reading)
        if isinstance(found, dict):  # the shape under RESP 3
            found = [(name, entries) for name, batches in found.items() for entries in batches]
        return [(id, fields["json"]) for _, entries in found or [] for id, fields in entries]


async def _within(limit: timedelta, reply: Awaitable[_T]) -> _T:
    try:
        async with asyncio.timeout(limit.total_seconds()):
            return await reply
    except TimeoutError as late:
        raise BrokerUnavailable(detail="no reply in time") from late
    except (RedisError, OSError) as failed:
        raise BrokerUnavailable(detail=str(failed)) from failed
