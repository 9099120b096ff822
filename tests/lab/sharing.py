"""Who may be at work with the machine's Docker Engine: many tests at once, or one that counts what there is.

Tests run in several processes. Two lock files tell them of each other: whoever works holds `engine`, shared or alone,
and passes through `gate` to get it, so that one that waits to be alone is not passed by those that need not be.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def at_work(directory: Path, *, alone: bool) -> Iterator[None]:
    """Wait until it may be, and be so until the block ends."""
    with (directory / "gate.lock").open("w") as gate, (directory / "engine.lock").open("w") as engine:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(engine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield
