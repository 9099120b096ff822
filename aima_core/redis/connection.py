"""How AIMA connects to Redis: every wait has a limit, and every failure is a BrokerUnavailable.

Two profiles: *command* gives up within seconds, so that a request can be answered; *following* is for pub/sub, whose
waits are long and which comes back by itself for ever. Both find the master by its Sentinels where the address says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.client import Pipeline
from redis.exceptions import AuthenticationError, MaxConnectionsError, OutOfMemoryError, ReadOnlyError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from aima_core.errors import BrokerUnavailable
from aima_core.redis.interface import TextRedis

ONE_SERVER = ("redis", "rediss", "unix")
SENTINELS = ("sentinel", "sentinels")
SENTINEL_PORT = 26379
_OPTIONS = {"master", "sentinel_user", "sentinel_password", "ssl_ca_certs"}


@dataclass(frozen=True)
class SentinelAddress:
    sentinels: tuple[tuple[str, int], ...]
    master: str
    database: int
    user: str | None
    password: str | None
    sentinel_user: str | None
    sentinel_password: str | None
    tls: bool
    ca_certs: str | None


def sentinel_address(url: str) -> SentinelAddress | None:
    """None where the address is one server's. Raises ValueError, which tells no password."""
    parts = urlsplit(url)
    if parts.scheme in ONE_SERVER:
        return None
    if parts.scheme not in SENTINELS:
        raise ValueError(f"an address begins with {_listed(*ONE_SERVER, *SENTINELS)}, not with {parts.scheme!r}")
    options = dict(parse_qsl(parts.query))
    if unknown := sorted(options.keys() - _OPTIONS):
        raise ValueError(f"{unknown[0]!r} is no option of such an address; there are {', '.join(sorted(_OPTIONS))}")
    if not options.get("master"):
        raise ValueError("the master's name is missing: end the address with `?master=NAME`")
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    return SentinelAddress(
        sentinels=tuple(_sentinel(host) for host in hosts.split(",")),
        master=options["master"],
        database=_database(parts.path),
        user=unquote(user) or None,
        password=unquote(password) or None,
        sentinel_user=options.get("sentinel_user"),
        sentinel_password=options.get("sentinel_password"),
        tls=parts.scheme == "sentinels",
        ca_certs=options.get("ssl_ca_certs"),
    )


def _sentinel(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"{text!r} is no Sentinel: write them such as `one:26379,two:26379,three:26379`")
    return parts.hostname, parts.port or SENTINEL_PORT


def _database(path: str) -> int:
    text = path.strip("/") or "0"
    if not text.isdigit():
        raise ValueError(f"{text!r} is no database: it is a number, such as `/0`")
    return int(text)


def _listed(*schemes: str) -> str:
    return ", ".join(f"`{scheme}://`" for scheme in schemes)


CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 1.75
SENTINEL_SECONDS = 0.5
"""For one Sentinel to be reached, and to answer: the next is asked after that."""
SILENCE_SECONDS = 1.0
"""A Redis that was found silent is not waited for again for this long: a crowd that asks is told at once."""
MOST_FOLLOWED = 10_000
"""Connections of one following link; each log that is followed holds one."""
_MEANING: dict[type[redis.RedisError], str] = {
    AuthenticationError: "it refuses the user or password of `redis.url`, or wants one.",
    OutOfMemoryError: "it has no room left, its `maxmemory` is used up.",
    ReadOnlyError: "it is a read-only replica, and the master is to be named, or the Sentinels that know it.",
}
_FOLLOW = ExponentialWithJitterBackoff(base=0.05, cap=2.0)
_T = TypeVar("_T")


class _OnePipeline(Pipeline):
    def __init__(self, link: RedisClient, transaction: bool, shard_hint: str | None) -> None:
        super().__init__(link.connection_pool, link.response_callbacks, transaction, shard_hint)
        self._link = link

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands = self.command_stack

        def execute() -> list[Any]:
            self.command_stack = commands  # an execution that failed has forgotten them
            return super(_OnePipeline, self).execute(raise_on_error)

        return self._link.asked(execute)


class RedisClient(redis.Redis):
    """A client whose every failure is a BrokerUnavailable, within five seconds."""

    _silent_until = 0.0

    def execute_command(self, *args: Any, **options: Any) -> Any:
        return self.asked(lambda: super(RedisClient, self).execute_command(*args, **options))  # type: ignore[no-untyped-call]  # redis-py leaves it bare

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        return _OnePipeline(self, transaction, shard_hint)

    def close(self) -> None:
        """Also the lines to the Sentinels, which redis-py would leave to the collector."""
        super().close()
        for sentinel in _sentinels_of(self.connection_pool):
            sentinel.close()

    def asked(self, call: Callable[[], _T]) -> _T:
        """What the call gives; it is made once more where its connection was broken. Raises BrokerUnavailable."""
        if time.monotonic() < self._silent_until:
            raise BrokerUnavailable(detail="it was silent a moment ago.")
        try:
            return self._asked_once_more(call)
        except redis.exceptions.NoScriptError:
            raise  # a script's first call finds it out this way, and loads it
        except redis.RedisError as failed:
            if isinstance(failed, redis.TimeoutError):
                self._silent_until = time.monotonic() + SILENCE_SECONDS
            over_tls = issubclass(self.connection_pool.connection_class, redis.SSLConnection)
            raise BrokerUnavailable(detail=_reason(failed, over_tls=over_tls)) from failed

    def _asked_once_more(self, call: Callable[[], _T]) -> _T:
        try:
            return call()
        except (AuthenticationError, MaxConnectionsError):
            raise
        except (redis.ConnectionError, redis.TimeoutError):
            self.connection_pool.disconnect(inuse_connections=False)  # what broke one has likely broken all
            return call()


class FollowingLink(AsyncRedis):
    """A client for pub/sub that closes its lines to the Sentinels, too."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        for sentinel in _sentinels_of(self.connection_pool):
            await sentinel.aclose()


def command_link(url: str, *, answers_within: timedelta = timedelta(seconds=ANSWER_SECONDS)) -> TextRedis:
    """A client for commands: text in and out, one more try after a broken connection, an answer within seconds.

    One whose commands wait for something in Redis has to be given longer than they wait.
    """
    limits = _limits(answers_within.total_seconds())
    if (address := sentinel_address(url)) is None:
        pool = redis.ConnectionPool.from_url(url, **limits, **_verified(url))
        return cast(TextRedis, RedisClient.from_pool(pool))
    sentinels: Any = Sentinel(address.sentinels, sentinel_kwargs=to_sentinels(address))  # type: ignore[no-untyped-call]  # redis-py leaves it bare
    return cast(TextRedis, sentinels.master_for(address.master, RedisClient, **limits, **_to_master(address)))


def following_link(url: str) -> AsyncRedis:
    """A client for pub/sub in an event loop: it comes back for ever, and notices a dead line within seconds."""
    limits = _limits(None) | {"retry": AsyncRetry(_FOLLOW, -1), "health_check_interval": 5}
    limits["max_connections"] = MOST_FOLLOWED
    if (address := sentinel_address(url)) is None:
        return FollowingLink.from_url(url, **limits, **_verified(url))
    told = to_sentinels(address) | {"retry": AsyncRetry(NoBackoff(), 0)}
    sentinels: Any = AsyncSentinel(address.sentinels, sentinel_kwargs=told)  # type: ignore[no-untyped-call]  # as above
    return cast(AsyncRedis, sentinels.master_for(address.master, FollowingLink, **limits, **_to_master(address)))


def _sentinels_of(pool: Any) -> Iterable[Any]:
    return getattr(getattr(pool, "sentinel_manager", None), "sentinels", ())


def to_sentinels(address: SentinelAddress) -> dict[str, Any]:
    """How a Sentinel is spoken to. One that is away must not take a request's whole time."""
    return {
        "username": address.sentinel_user,
        "password": address.sentinel_password,
        "socket_timeout": SENTINEL_SECONDS,
        "socket_connect_timeout": SENTINEL_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        **_over_tls(address),
    }


def _to_master(address: SentinelAddress) -> dict[str, Any]:
    return {
        "db": address.database,
        "username": address.user,
        "password": address.password,
        **_over_tls(address),
    }


def _over_tls(address: SentinelAddress) -> dict[str, Any]:
    if not address.tls:
        return {}
    return {"ssl": True, "ssl_cert_reqs": "required", "ssl_ca_certs": address.ca_certs}


def _limits(answers_within: float | None) -> dict[str, Any]:
    """None is for who waits for what may never come, and sets limits to it."""
    return {
        "decode_responses": True,
        "socket_timeout": answers_within,
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),  # each layer of redis-py would retry by itself, and five seconds be over
    }


def _verified(url: str) -> dict[str, Any]:
    """`rediss://` alone would take any certificate."""
    return {"ssl_cert_reqs": "required"} if url.startswith("rediss://") else {}


def _reason(failed: redis.RedisError, *, over_tls: bool) -> str:
    """In a sentence; what Redis itself says of some of them helps nobody."""
    for kind, meaning in _MEANING.items():
        if isinstance(failed, kind):
            return meaning
    said = str(failed).rstrip(".") or type(failed).__name__
    if isinstance(failed, MasterNotFoundError):
        return (
            f"its Sentinels name no master that is up{', and some do not answer or let nobody in' * (' : ' in said)}."
        )
    if over_tls and isinstance(failed, redis.ConnectionError | redis.TimeoutError) and "CERTIFICATE" not in said:
        return f"{said}; `redis.url` asks for TLS, which a server has to be set up for."
    return f"{said}."
