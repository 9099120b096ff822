"""How AIMA connects to Redis: every wait has a limit, and every failure is a BrokerUnavailable.

Two profiles: *command* gives up within seconds, so that a request can be answered; *following* is for pub/sub, whose
waits are long and which comes back by itself for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, cast

import redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.client import Pipeline
from redis.retry import Retry

from aima_core.failures import BrokerUnavailable
from aima_core.text_redis import TextRedis

CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 2.0
_FOLLOW = ExponentialWithJitterBackoff(base=0.05, cap=2.0)
_T = TypeVar("_T")


class _TranslatingPipeline(Pipeline):
    def execute(self, raise_on_error: bool = True) -> list[Any]:
        return _translated(lambda: super(_TranslatingPipeline, self).execute(raise_on_error))


class RedisLink(redis.Redis):
    """A client whose every failure is a BrokerUnavailable."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        return _translated(lambda: super(RedisLink, self).execute_command(*args, **options))  # type: ignore[no-untyped-call]  # redis-py leaves it bare

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        return _TranslatingPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


def _translated(call: Callable[[], _T]) -> _T:
    try:
        return call()
    except redis.exceptions.NoScriptError:
        raise  # a script's first call finds it out this way, and loads it
    except redis.RedisError as failed:
        raise BrokerUnavailable(detail=str(failed)) from failed


def command_link(url: str, *, answers_within: timedelta = timedelta(seconds=ANSWER_SECONDS)) -> TextRedis:
    """A client for commands: text in and out, one more try after a broken connection, an answer within seconds.

    One whose commands wait for something in Redis has to be given longer than they wait.
    """
    pool = redis.ConnectionPool.from_url(
        url,
        decode_responses=True,
        socket_timeout=answers_within.total_seconds(),
        socket_connect_timeout=CONNECT_SECONDS,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 1),
        **_verified(url),
    )
    return cast(TextRedis, RedisLink(connection_pool=pool))


def following_link(url: str) -> AsyncRedis:
    """A client for pub/sub in an event loop: it comes back for ever, and notices a dead line within seconds."""
    return AsyncRedis.from_url(
        url,
        decode_responses=True,
        socket_timeout=None,
        socket_connect_timeout=CONNECT_SECONDS,
        socket_keepalive=True,
        health_check_interval=5,
        retry=AsyncRetry(_FOLLOW, -1),
        **_verified(url),
    )


def _verified(url: str) -> dict[str, Any]:
    """`rediss://` alone would take any certificate."""
    return {"ssl_cert_reqs": "required"} if url.startswith("rediss://") else {}
