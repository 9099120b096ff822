"""What this host remembers of Redis while it is off: which Redis it was, and whether the host was drained there."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class RedisState(NamedTuple):
    epoch: str | None = None
    drained: bool = False


class PersistedRedisState:
    def __init__(self, state_dir: Path) -> None:
        self._file = state_dir / "redis.epoch"

    def load(self) -> RedisState:
        """Nothing where nothing was kept, or nothing that can be read."""
        words = self._file.read_text().split() if self._file.exists() else []
        return RedisState(words[0], "drained" in words[1:]) if words else RedisState()

    def save(self, remembered: RedisState) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{remembered.epoch}{' drained' if remembered.drained else ''}\n")
        fresh.rename(self._file)
