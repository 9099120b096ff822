"""The fixtures that the attackers share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from api.access.conftest import guarded, store

__all__ = ["guarded", "store"]


@pytest.fixture
def secrets_tmpfs() -> Iterator[Path]:
    """A directory in memory, for the copies of secrets."""
    with tempfile.TemporaryDirectory(prefix="aima-secrets-", dir="/dev/shm") as directory:
        yield Path(directory)
