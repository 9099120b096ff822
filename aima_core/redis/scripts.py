"""Loads and runs the Lua scripts by name; Redis caches them by hash, and a script that it has lost is loaded again.

The head of a script names the libraries of `lua/lib` that it uses, which are prepended, and says what it does and
returns.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import cache
from importlib import resources
from itertools import chain, islice
from typing import Any

from redis.exceptions import NoScriptError

from aima_core.redis.connection import RedisClient
from aima_core.redis.interface import TextRedis, TextScript

Call = tuple[Sequence[str], Sequence[str | int]]
"""The keys and the arguments of one call."""
LUA = resources.files("aima_core.redis") / "lua"
_USES = "-- uses: "


@cache
def script_text(name: str) -> str:
    """The script with its libraries before it."""
    script = (LUA / f"{name}.lua").read_text()
    head = script.partition("\n")[0]
    libraries = head.removeprefix(_USES).split(", ") if head.startswith(_USES) else []
    return "\n".join([*((LUA / "lib" / f"{library}.lua").read_text() for library in libraries), script])


class Scripts:
    """The scripts of one connection."""

    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis
        self._loaded: dict[str, TextScript] = {}

    def __call__(self, name: str, keys: Sequence[str], *args: str | int) -> Any:
        """Runs the script, loading it again if Redis has lost it, and returns what its head says."""
        return self._script(name)(keys, args)

    def each(self, name: str, calls: Iterable[Call]) -> list[Any]:
        """Runs the script for each call, in order; Redis runs it while the next call is made.

        The script must be idempotent: after a broken connection, or where Redis has lost it, every call is retried.
        """
        script, made = self._script(name), iter(calls)
        first = list(islice(made, 2))
        if len(first) < 2 or not isinstance(self._redis, RedisClient):
            return [script(keys, args) for keys, args in chain(first, made)]
        sent: list[Sequence[str | int]] = []
        commands = (["EVALSHA", script.sha, len(keys), *keys, *args] for keys, args in chain(first, made))
        try:
            return self._redis.run_ahead(commands, sent)
        except NoScriptError:
            self._redis.script_load(script.script)
            return self._redis.run_ahead((), sent)

    def _script(self, name: str) -> TextScript:
        if name not in self._loaded:
            self._loaded[name] = self._redis.register_script(script_text(name))
        return self._loaded[name]


def in_ms(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1000)


def pairs(flat: Sequence[Any]) -> dict[str, Any]:
    """A hash as scripts return it: field, value, field, value, …"""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def comma_list(words: Iterable[str]) -> str:
    """With a comma on both sides of each word, so that a script can find one as text."""
    return f",{','.join(words)},"
