"""The API node's side of the log channels in Redis; the worker's side is `aima_worker/logs/channel.py`.

Every method may raise BrokerUnavailable.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from datetime import timedelta
from typing import Any, TypeVar

import structlog
from pydantic import BaseModel, ByteSize
from redis import RedisError
from redis.asyncio import Redis as AsyncRedis

from aima_core.domain.ids import AnswerId, InstanceId
from aima_core.errors import AimaError, BrokerUnavailable
from aima_core.logs.protocol import LastLines, LogBatch, LogChunk, LogRequest
from aima_core.redis import keys
from aima_core.redis.connection import translated

COMMAND_TIMEOUT = timedelta(seconds=2)
"""Of a command that does not block."""
READ_COUNT = 64
"""Stream entries per command."""
BEGINNING = "0-0"
ENTRY_LIMIT = ByteSize(16 << 20)
"""Characters of one entry before it is decoded; the largest is a chunk of 500 lines of 16 KiB."""
_T = TypeVar("_T")
_Entry = TypeVar("_Entry", bound=BaseModel)

_log = structlog.get_logger()


class LogChannelClient:
    def __init__(self, redis: AsyncRedis) -> None:
        self._redis = redis
        self.dropped = 0
        """Entries that were malformed, or of another protocol version."""

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
            for chunk in self._parsed(LogChunk, entries):
                yield chunk
                if chunk.end is not None:
                    return

    async def batches(self, id: InstanceId, entry: str, *, within: timedelta) -> tuple[str, list[LogBatch]]:
        """The batches published after a stream entry, and the last entry; no batch and the same entry on timeout.

        A malformed one is dropped: its readers see a gap.
        """
        entries = await self._after(keys.lines(id), entry, within=within)
        return entries[-1][0] if entries else entry, self._parsed(LogBatch, entries)

    async def last_lines(self, id: InstanceId) -> LastLines | None:
        text = await _within(COMMAND_TIMEOUT, self._redis.get(keys.last_lines(id)))
        return next(iter(self._parsed(LastLines, [(BEGINNING, text)])), None) if text else None

    async def close(self) -> None:
        await self._redis.aclose()

    async def _after(self, key: str, entry: str, *, within: timedelta) -> list[tuple[str, str]]:
        block = max(1, round(within.total_seconds() * 1000))  # 0 would block for ever
        reading = self._redis.xread({key: entry}, count=READ_COUNT, block=block)
        found: Any = await _within(within + COMMAND_TIMEOUT, reading)
        if isinstance(found, dict):  # the shape under RESP 3
            found = [(name, entries) for name, batches in found.items() for entries in batches]
        return [(id, fields.get("json", "")) for _, entries in found or [] for id, fields in entries]

    def _parsed(self, model: type[_Entry], entries: Iterable[tuple[str, str | bytes]]) -> list[_Entry]:
        parsed = []
        for _, text in entries:
            try:
                if len(text) > ENTRY_LIMIT:
                    raise ValueError(f"it has {len(text)} characters, and the limit is {ENTRY_LIMIT}")
                parsed.append(model.model_validate_json(text))
            except (ValueError, AimaError) as malformed:
                self.dropped += 1
                _log.warning("log entry dropped", reason=str(malformed)[:200])
        return parsed


async def _within(limit: timedelta, reply: Awaitable[_T]) -> _T:
    try:
        async with asyncio.timeout(limit.total_seconds()):
            return await reply
    except TimeoutError as late:
        raise BrokerUnavailable(detail="no reply in time") from late
    except (RedisError, OSError) as failed:
        raise translated(failed) from failed
