"""Redis connections: every wait has a timeout, and every failure is a BrokerUnavailable, or CorruptData.

Redis answers, and the data is not what AIMA writes: a key of another type, or a value on which a script fails. That is
no outage, and waiting does not end it.

A *command* client fails within seconds, so that a request can be answered. A *following* client is for pub/sub, whose
waits are long, and reconnects for ever. Both discover the master through Sentinels if the address names them.
"""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.client import Pipeline
from redis.exceptions import (
    AuthenticationError,
    MaxConnectionsError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from aima_core.errors import AimaError, BrokerUnavailable, CorruptData
from aima_core.redis.interface import TextRedis

CONNECT_TIMEOUT = timedelta(seconds=1)
REPLY_TIMEOUT = timedelta(seconds=1.75)
SENTINEL_TIMEOUT = timedelta(seconds=0.5)
"""For one Sentinel to accept a connection, and to reply; then the next one is tried."""
CIRCUIT_OPEN_DELAY = timedelta(seconds=1)
"""After a timeout, every call fails at once for this long, so that waiting callers do not pile up (circuit breaker)."""
MOST_FOLLOWED = 10_000
"""Connections of one following client; each followed log holds one."""
_ONE_SERVER = ("redis", "rediss", "unix")
_SENTINELS = ("sentinel", "sentinels")
_SENTINEL_PORT = 26379
_OPTIONS = {"master", "sentinel_user", "sentinel_password", "ssl_ca_certs"}
_RECONNECT_BACKOFF = ExponentialWithJitterBackoff(base=0.05, cap=2.0)
_MEANING: dict[type[redis.RedisError], str] = {
    AuthenticationError: "it refuses the user or password of `redis.url`, or requires one.",
    OutOfMemoryError: "it is full: its `maxmemory` is used up.",
    ReadOnlyError: "it is a read-only replica; set `redis.url` to the master, or to the Sentinels.",
}
_BAD_DATA = re.compile(r"WRONGTYPE|user_script|not an integer|not a valid float|would overflow|specified in XADD")
_NO_BAD_DATA = re.compile(
    r"\b(OOM|READONLY|MISCONF|NOREPLICAS|NOPERM|BUSY|UNKILLABLE|MASTERDOWN|CLUSTERDOWN|user executing the script)\b"
)
"""Names in an error of a script that say that Redis is out of order."""
_T = TypeVar("_T")


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


def command_link(url: str, *, answers_within: timedelta = REPLY_TIMEOUT) -> TextRedis:
    """A client for commands, with text in and out; it retries once after a broken connection.

    `answers_within` must exceed the wait of a blocking command.
    """
    limits = _limits(answers_within)
    if (address := sentinel_address(url)) is None:
        pool = redis.ConnectionPool.from_url(verified(url), **limits)
        return cast(TextRedis, RedisClient.from_pool(pool))
    sentinels: Any = Sentinel(address.sentinels, sentinel_kwargs=to_sentinels(address))  # type: ignore[no-untyped-call]  # redis-py leaves it bare
    return cast(TextRedis, sentinels.master_for(address.master, RedisClient, **limits, **_to_master(address)))


def following_link(url: str) -> AsyncRedis:
    """A client for pub/sub in an event loop: it reconnects for ever, and detects a dead connection within seconds."""
    retry = AsyncRetry(_RECONNECT_BACKOFF, -1)
    limits = _limits(None) | {"retry": retry, "health_check_interval": 5, "max_connections": MOST_FOLLOWED}
    if (address := sentinel_address(url)) is None:
        return FollowingClient.from_url(verified(url), **limits)
    options = to_sentinels(address) | {"retry": AsyncRetry(NoBackoff(), 0)}
    sentinels: Any = AsyncSentinel(address.sentinels, sentinel_kwargs=options)  # type: ignore[no-untyped-call]  # as above
    return cast(AsyncRedis, sentinels.master_for(address.master, FollowingClient, **limits, **_to_master(address)))


class RedisClient(redis.Redis):
    """A client whose every failure is a BrokerUnavailable or CorruptData, within five seconds."""

    _circuit_open_until = 0.0

    def execute_command(self, *args: Any, **options: Any) -> Any:
        return self.guard(lambda: super(RedisClient, self).execute_command(*args, **options))  # type: ignore[no-untyped-call]  # redis-py leaves it bare

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        return _GuardedPipeline(self, transaction, shard_hint)

    def run_ahead(self, commands: Iterable[Sequence[str | int]], sent: list[Sequence[str | int]]) -> list[Any]:
        """Sends each command as it is made, so that Redis runs it concurrently, and reads the replies in the end.

        Begins with those `sent` before, and adds the others to them: a retry after a broken connection sends all.
        """
        made = iter(commands)

        def run() -> list[Any]:
            connection = self.connection_pool.get_connection()
            try:
                for command in sent:
                    connection.send_command(*command)  # type: ignore[no-untyped-call]  # redis-py leaves it bare
                for command in made:
                    sent.append(command)
                    connection.send_command(*command)  # type: ignore[no-untyped-call]  # redis-py leaves it bare
                return [_reply(connection) for _ in sent]
            except BaseException:
                connection.disconnect()  # type: ignore[no-untyped-call]  # unread replies must not answer the next command
                raise
            finally:
                self.connection_pool.release(connection)

        replies = self.guard(run)
        if refused := next((reply for reply in replies if isinstance(reply, redis.ResponseError)), None):
            return self.guard(lambda: _raise(refused))
        return replies

    def close(self) -> None:
        """Also closes the connections to the Sentinels, which redis-py leaves to the garbage collector."""
        super().close()
        for sentinel in _sentinels_of(self.connection_pool):
            sentinel.close()

    def guard(self, call: Callable[[], _T]) -> _T:
        """Calls, and retries once if the connection was broken. Raises BrokerUnavailable, CorruptData."""
        if time.monotonic() < self._circuit_open_until:
            raise BrokerUnavailable(detail="it timed out a moment ago.")
        try:
            return self._retry_once(call)
        except redis.exceptions.NoScriptError:
            raise  # the caller loads the script and calls again
        except redis.RedisError as failed:
            if isinstance(failed, redis.TimeoutError):
                self._circuit_open_until = time.monotonic() + CIRCUIT_OPEN_DELAY.total_seconds()
            over_tls = issubclass(self.connection_pool.connection_class, redis.SSLConnection)
            raise translated(failed, over_tls=over_tls) from failed

    def _retry_once(self, call: Callable[[], _T]) -> _T:
        try:
            return call()
        except (AuthenticationError, MaxConnectionsError):
            raise
        except (redis.ConnectionError, redis.TimeoutError):
            self.connection_pool.disconnect(inuse_connections=False)  # what broke one connection likely broke all
            return call()


def _reply(connection: Any) -> Any:
    """Returns a ResponseError, so that the replies after it are read, too."""
    try:
        return connection.read_response()
    except redis.ResponseError as refused:
        return refused


def _raise(refused: redis.ResponseError) -> NoReturn:
    raise refused


class _GuardedPipeline(Pipeline):
    def __init__(self, client: RedisClient, transaction: bool, shard_hint: str | None) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, transaction, shard_hint)
        self._client = client

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands = self.command_stack

        def execute() -> list[Any]:
            self.command_stack = commands  # a failed execution has dropped them
            return super(_GuardedPipeline, self).execute(raise_on_error)

        return self._client.guard(execute)


class FollowingClient(AsyncRedis):
    """A client for pub/sub that closes its connections to the Sentinels, too."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        for sentinel in _sentinels_of(self.connection_pool):
            await sentinel.aclose()


def sentinel_address(url: str) -> SentinelAddress | None:
    """None for the address of one server. Raises ValueError, whose text holds no password."""
    parts = urlsplit(url)
    if parts.scheme in _ONE_SERVER:
        return None
    if parts.scheme not in _SENTINELS:
        schemes = ", ".join(f"`{scheme}://`" for scheme in (*_ONE_SERVER, *_SENTINELS))
        raise ValueError(f"an address begins with {schemes}, not with {parts.scheme!r}")
    options = dict(parse_qsl(parts.query))
    if unknown := sorted(options.keys() - _OPTIONS):
        raise ValueError(f"{unknown[0]!r} is no option of such an address; there are {', '.join(sorted(_OPTIONS))}")
    if not options.get("master"):
        raise ValueError("the master's name is missing: end the address with `?master=NAME`")
    if not (database := parts.path.strip("/") or "0").isdigit():
        raise ValueError(f"{database!r} is no database: it is a number, such as `/0`")
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    return SentinelAddress(
        sentinels=tuple(_sentinel(host) for host in hosts.split(",")),
        master=options["master"],
        database=int(database),
        user=unquote(user) or None,
        password=unquote(password) or None,
        sentinel_user=options.get("sentinel_user"),
        sentinel_password=options.get("sentinel_password"),
        tls=parts.scheme == "sentinels",
        ca_certs=options.get("ssl_ca_certs"),
    )


def to_sentinels(address: SentinelAddress) -> dict[str, Any]:
    """Connection options for a Sentinel: an unavailable one must not use up the timeout of a request."""
    return {
        "username": address.sentinel_user,
        "password": address.sentinel_password,
        "socket_timeout": SENTINEL_TIMEOUT.total_seconds(),
        "socket_connect_timeout": SENTINEL_TIMEOUT.total_seconds(),
        "retry": Retry(NoBackoff(), 0),
        **_over_tls(address),
    }


def verified(url: str) -> str:
    """The address of one server; `rediss://` alone would accept any certificate."""
    if url.startswith("rediss://") and "ssl_cert_reqs" not in url:
        return f"{url}{'&' if '?' in url else '?'}ssl_cert_reqs=required"
    return url


def without_credentials(url: str) -> str:
    """The address for logs and messages: without user and password, and of the options the Sentinels' master only."""
    parts = urlsplit(url)
    master = dict(parse_qsl(parts.query)).get("master")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" + (f"?master={master}" if master else "")


def _sentinel(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"{text!r} is no Sentinel: write them such as `one:26379,two:26379,three:26379`")
    return parts.hostname, parts.port or _SENTINEL_PORT


def _sentinels_of(pool: Any) -> Iterable[Any]:
    return getattr(getattr(pool, "sentinel_manager", None), "sentinels", ())


def _to_master(address: SentinelAddress) -> dict[str, Any]:
    return {"db": address.database, "username": address.user, "password": address.password, **_over_tls(address)}


def _over_tls(address: SentinelAddress) -> dict[str, Any]:
    return {"ssl": True, "ssl_cert_reqs": "required", "ssl_ca_certs": address.ca_certs} if address.tls else {}


def _limits(answers_within: timedelta | None) -> dict[str, Any]:
    """None leaves the timeout of each wait to the caller."""
    return {
        "protocol": 2,  # redis-py turns each publication into a log message under RESP3, and discards it
        "decode_responses": True,
        "encoding_errors": "replace",  # else one value that is no UTF-8 would fail the reply that it is part of
        "socket_timeout": answers_within and answers_within.total_seconds(),
        "socket_connect_timeout": CONNECT_TIMEOUT.total_seconds(),
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 0),  # every layer of redis-py would retry by itself, beyond five seconds in all
    }


def is_bad_data(failed: object) -> bool:
    """Whether Redis answered, and the error is due to what a key holds."""
    text = str(failed)
    # Its subclasses, such as OutOfMemoryError, are about Redis; their messages lack the names above.
    return type(failed) is ResponseError and bool(_BAD_DATA.search(text)) and not _NO_BAD_DATA.search(text)


def translated(failed: Exception, *, over_tls: bool = False) -> AimaError:
    """A failure of redis-py as AIMA's."""
    if is_bad_data(failed):
        return CorruptData(detail=str(failed).partition(" script: ")[0])
    return BrokerUnavailable(detail=_reason(failed, over_tls=over_tls))


def _reason(failed: Exception, *, over_tls: bool) -> str:
    """A sentence; it replaces those of Redis' own messages that advise nothing."""
    for kind, meaning in _MEANING.items():
        if isinstance(failed, kind):
            return meaning
    text = str(failed).rstrip(".") or type(failed).__name__
    if isinstance(failed, MasterNotFoundError):
        refused = ", and some do not answer or refuse the connection" * (" : " in text)
        return f"its Sentinels name no master that is up{refused}."
    if over_tls and isinstance(failed, redis.ConnectionError | redis.TimeoutError) and "CERTIFICATE" not in text:
        return f"{text}; `redis.url` asks for TLS, which the server must be configured for."
    return f"{text}."
