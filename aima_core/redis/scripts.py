"""Loads and runs the Lua scripts by name; Redis caches them by hash, and a script that it has lost is loaded again.

The head of a script names the libraries of `lua/lib` that it uses, which are prepended, and says what it does and
returns.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import cache
from importlib import resources
from typing import Any

from redis.exceptions import NoScriptError

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

    def each(self, name: str, calls: Sequence[Call]) -> list[Any]:
        """Runs the script for each call in one round trip.

        The script must be idempotent: where Redis has lost it, every call is sent again.
        """
        try:
            return self._pipelined(name, calls)
        except NoScriptError:
            self._redis.script_load(self._script(name).script)
            return self._pipelined(name, calls)

    def _pipelined(self, name: str, calls: Sequence[Call]) -> list[Any]:
        sha = self._script(name).sha
        with self._redis.pipeline(transaction=False) as pipe:
            for keys, args in calls:
                pipe.evalsha(sha, len(keys), *keys, *args)
            return pipe.execute()

    def _script(self, name: str) -> TextScript:
        if name not in self._loaded:
            self._loaded[name] = self._redis.register_script(script_text(name))
        return self._loaded[name]


def in_ms(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1000)


def pairs(flat: Sequence[str]) -> dict[str, str]:
    """A hash as scripts return it: field, value, field, value, …"""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def comma_list(words: Iterable[str]) -> str:
    """With a comma on both sides of each word, so that a script can find one as text."""
    return f",{','.join(words)},"
