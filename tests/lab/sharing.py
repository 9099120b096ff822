"""A shared or exclusive lock on the machine's Docker Engine, between the processes that run the tests.

A test holds the file lock `engine`, shared or exclusive, and passes through `gate` to acquire it, so that shared
holders cannot starve a test that waits for the exclusive lock.
"""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def at_work(directory: Path, *, alone: bool) -> Iterator[None]:
    """Holds the lock until the block ends."""
    with (directory / "gate.lock").open("w") as gate, (directory / "engine.lock").open("w") as engine:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(engine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield


@contextmanager
def building(*engines: str) -> Iterator[None]:
    """Holds the locks of engines' images: one process builds an image, and the others find it up to date.

    Race: a build removes the image that it replaces, with layers that another build may be using.
    """
    with ExitStack() as locks:
        for engine in sorted(engines):
            locks.enter_context(locked(Path(tempfile.gettempdir()) / f"aima-test-build-{engine}.lock"))
        yield


@contextmanager
def locked(file: Path) -> Iterator[None]:
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
