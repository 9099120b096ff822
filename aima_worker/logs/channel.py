"""The worker's side of the log channels in Redis; the API node's side is `aima_api/logs/channel.py`.

Every method may raise BrokerUnavailable.
"""

from collections.abc import Iterable
from datetime import timedelta

import structlog
from pydantic import BaseModel, ByteSize

from aima_core.domain.ids import AnswerId, HostName, InstanceId
from aima_core.errors import AimaError
from aima_core.logs.protocol import LastLines, LogBatch, LogChunk, LogRequest
from aima_core.queue.transport import DroppedMessages
from aima_core.redis import keys
from aima_core.redis.interface import TextPipeline, TextRedis

REQUEST_LIMIT = ByteSize(64 << 10)
"""Characters of one request before it is decoded."""

_log = structlog.get_logger()


class LogChannel:
    def __init__(self, redis: TextRedis, *, dropped: DroppedMessages | None = None) -> None:
        """Malformed requests are counted in `dropped`."""
        self._redis = redis
        self._dropped = dropped or DroppedMessages()

    def next_request(self, host: HostName, *, within: timedelta) -> LogRequest | None:
        """None if no request of this protocol version comes within that time, or `wake` was called."""
        found = self._redis.blpop(keys.asked(host), timeout=within.total_seconds())
        if not found or not found[1]:
            return None
        try:
            if len(found[1]) > REQUEST_LIMIT:
                raise ValueError(f"it has {len(found[1])} characters, and the limit is {REQUEST_LIMIT}")
            return LogRequest.model_validate_json(found[1])
        except (ValueError, AimaError) as malformed:
            self._dropped.add()
            _log.warning("log request dropped", reason=str(malformed)[:200])
            return None

    def wake(self, host: HostName) -> None:
        """Ends the wait of `next_request`, by an empty request."""
        self._redis.rpush(keys.asked(host), "")
        self._redis.expire(keys.asked(host), keys.ASKED_TTL)

    def answer(self, id: AnswerId, chunk: LogChunk) -> None:
        with self._redis.pipeline() as pipe:
            _append(pipe, keys.answer(id), chunk, ttl=keys.ANSWER_TTL)
            pipe.execute()

    def publish(self, batches: Iterable[tuple[InstanceId, LogBatch]]) -> None:
        with self._redis.pipeline() as pipe:
            for instance, batch in batches:
                _append(pipe, keys.lines(instance), batch, ttl=keys.LINES_TTL, cap=keys.LINES_CAP)
            pipe.execute()

    def store(self, last: Iterable[tuple[InstanceId, LastLines]]) -> None:
        ttl = round(keys.LAST_LINES_TTL.total_seconds() * 1000)
        with self._redis.pipeline() as pipe:
            for instance, lines in last:
                pipe.set(keys.last_lines(instance), lines.model_dump_json(), px=ttl)
            pipe.execute()


def _append(pipe: TextPipeline, key: str, entry: BaseModel, *, ttl: timedelta, cap: int | None = None) -> None:
    pipe.xadd(key, {"json": entry.model_dump_json(exclude_defaults=True)}, maxlen=cap)
    pipe.expire(key, ttl)
