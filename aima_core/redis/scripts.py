"""Loads and runs the Lua scripts by name; Redis caches them by hash, and a script that it has lost is loaded again.

The head of a script names the libraries of `lua/lib` that it uses, which are prepended, and says what it does and
returns.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from importlib import resources
from itertools import chain, islice
from typing import Any, TypeVar

from redis.exceptions import NoScriptError

from aima_core.errors import BrokerUnavailable
from aima_core.redis.connection import RedisClient
from aima_core.redis.interface import TextRedis

Call = tuple[Sequence[str], Sequence[str | int]]
"""The keys and the arguments of one call."""
LUA = resources.files("aima_core.redis") / "lua"
MAX_CALLS = 4
"""Of a script that Redis has lost each time: between its load and its call, Redis may restart, or fail over."""
_USES = "-- uses: "
_T = TypeVar("_T")


@dataclass(frozen=True)
class Script:
    text: str
    """With its libraries before it."""
    sha: str
    """By which Redis knows it."""


@cache
def script_named(name: str) -> Script:
    own = (LUA / f"{name}.lua").read_text()
    head = own.partition("\n")[0]
    libraries = head.removeprefix(_USES).split(", ") if head.startswith(_USES) else []
    text = "\n".join([*((LUA / "lib" / f"{library}.lua").read_text() for library in libraries), own])
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class Scripts:
    """The scripts of one connection."""

    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis

    def __call__(self, name: str, keys: Sequence[str], *args: str | int) -> Any:
        """Runs the script, and returns what its head says. Raises BrokerUnavailable."""
        called = script_named(name)
        return self._load_and_call(called, lambda: self._redis.evalsha(called.sha, len(keys), *keys, *args))

    def each(self, name: str, calls: Iterable[Call]) -> list[Any]:
        """Runs the script for each call, in order; Redis runs it while the next call is made.

        The script must be idempotent: after a broken connection, or where Redis has lost it, every call is retried.
        """
        made = iter(calls)
        first = list(islice(made, 2))
        if len(first) < 2 or not isinstance(self._redis, RedisClient):
            return [self(name, keys, *args) for keys, args in chain(first, made)]
        called, redis, sent = script_named(name), self._redis, list[Sequence[str | int]]()
        commands = (["EVALSHA", called.sha, len(keys), *keys, *args] for keys, args in chain(first, made))
        return self._load_and_call(called, lambda: redis.run_ahead(commands, sent))

    def _load_and_call(self, called: Script, call: Callable[[], _T]) -> _T:
        """Calls first: Redis mostly has the script. Raises BrokerUnavailable."""
        for attempt in range(MAX_CALLS):
            if attempt:
                self._redis.script_load(called.text)
            with suppress(NoScriptError):
                return call()
        raise BrokerUnavailable(detail="it keeps losing its scripts.")


def in_ms(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1000)


def pairs(flat: Sequence[Any]) -> dict[str, Any]:
    """A hash as scripts return it: field, value, field, value, …"""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def comma_list(words: Iterable[str]) -> str:
    """With a comma on both sides of each word, so that a script can find one as text."""
    return f",{','.join(words)},"
