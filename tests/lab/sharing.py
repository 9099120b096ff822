"""A shared or exclusive lock on the machine's Docker Engine, between the processes that run the tests.

A test holds the file lock `engine`, shared or exclusive, and passes through `gate` to acquire it, so that shared
holders cannot starve a test that waits for the exclusive lock.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def at_work(directory: Path, *, alone: bool) -> Iterator[None]:
    """Holds the lock until the block ends."""
    with (directory / "gate.lock").open("w") as gate, (directory / "engine.lock").open("w") as engine:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(engine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield
