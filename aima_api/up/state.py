"""The state directory: who holds it, and the secrets minted into it."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aima_core.errors import AlreadyUp


@contextmanager
def held(state_dir: Path) -> Iterator[None]:
    """Make the directory if need be, and hold it against any other `aima up`. Raises AlreadyUp."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state_dir / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as taken:
            lock.seek(0)
            raise AlreadyUp(pid=lock.read().strip() or "unknown", state_dir=state_dir) from taken
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def secret(path: Path) -> str:
    """The secret kept in that file, minted the first time; readable by its owner only."""
    if not path.exists():
        unfinished = path.with_suffix(".new")
        unfinished.unlink(missing_ok=True)
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
        unfinished.rename(path)  # whole or not at all: half a key would be a wrong one for good
    return path.read_text().strip()
