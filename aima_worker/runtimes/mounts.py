"""Compares what a started engine has mounted with the directories that were checked: the source of a mount is a path,
which a writer in a trusted model root can replace between the check and the mount."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from aima_core.errors import ModelPathChanged
from aima_worker.directories import DirectoryIdentity, identity_seen_by


class SeenMount(NamedTuple):
    source: str
    path: str
    """Where the engine's process finds it."""
    expected: DirectoryIdentity


def verify_mounts(mounts: Iterable[SeenMount], *, pid: int, host: str) -> None:
    """Raises ModelPathChanged if the process has another directory there; not if it may not be examined."""
    for mount in mounts:
        if (found := identity_seen_by(pid, mount.path)) is not None and found != mount.expected:
            raise ModelPathChanged(path=mount.source, host=host)
