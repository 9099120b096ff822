"""The Redis scripts, by name. Each file's head says what it does, what it is given and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any

from redis.exceptions import NoScriptError

from aima_core.redis.interface import TextRedis, TextScript

Call = tuple[Sequence[str], Sequence[str | int]]
"""The keys and the arguments of one call."""


class Scripts:
    """The scripts of one connection, loaded as they are first called; Redis keeps them by their hash."""

    def __init__(self, redis: TextRedis) -> None:
        self._redis = redis
        self._loaded: dict[str, TextScript] = {}

    def __call__(self, name: str, keys: Sequence[str], *args: str | int) -> Any:
        """Run the script; what it gives is as its head says."""
        script = self._script(name)
        try:
            return self._redis.evalsha(script.sha, len(keys), *keys, *args)
        except NoScriptError:
            self._redis.script_load(script.script)
            return self._redis.evalsha(script.sha, len(keys), *keys, *args)

    def each(self, name: str, calls: Sequence[Call]) -> list[Any]:
        """Run the script for each call, all in one round trip.

        Only for a script that does nothing the second time: where Redis does not have it yet, all are run again.
        """
        try:
            return self._in_one_go(name, calls)
        except NoScriptError:
            self._redis.script_load(self._script(name).script)
            return self._in_one_go(name, calls)

    def _in_one_go(self, name: str, calls: Sequence[Call]) -> list[Any]:
        hash = self._script(name).sha
        with self._redis.pipeline(transaction=False) as pipe:
            for keys, args in calls:
                pipe.evalsha(hash, len(keys), *keys, *args)
            return pipe.execute()

    def _script(self, name: str) -> TextScript:
        if name not in self._loaded:
            text = resources.files("aima_core.redis").joinpath("lua", f"{name}.lua").read_text()
            self._loaded[name] = self._redis.register_script(text)
        return self._loaded[name]
