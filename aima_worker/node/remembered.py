"""What this host remembers of Redis while it is off: which Redis it was, and whether the host was drained there."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Remembered(NamedTuple):
    epoch: str | None = None
    drained: bool = False


class Memory:
    def __init__(self, state_dir: Path) -> None:
        self._file = state_dir / "redis.epoch"

    def recall(self) -> Remembered:
        """Nothing where nothing was kept, or nothing that can be read."""
        words = self._file.read_text().split() if self._file.exists() else []
        return Remembered(words[0], "drained" in words[1:]) if words else Remembered()

    def keep(self, remembered: Remembered) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{remembered.epoch}{' drained' if remembered.drained else ''}\n")
        fresh.rename(self._file)
