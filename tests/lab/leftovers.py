"""What a test left behind: containers, threads and descriptors that were not there before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import docker
from lab.parts import eventually

SETTLES_WITHIN = timedelta(seconds=5)
INSTALLATION_LABEL = "aima.installation"


@dataclass(frozen=True)
class Holdings:
    """What this process holds at one moment."""

    threads: frozenset[threading.Thread]
    descriptors: dict[str, str]
    """Number → what it is open on."""

    @classmethod
    def now(cls) -> Holdings:
        return cls(frozenset(threading.enumerate()), dict(_descriptors()))

    def beyond(self, before: Holdings) -> list[str]:
        """What is held now and was not before, a line each. A descriptor counts once its number is new."""
        threads = [f"thread {thread.name}" for thread in self.threads - before.threads if thread.is_alive()]
        opened = self.descriptors.keys() - before.descriptors.keys()
        return threads + [f"descriptor {number} on {self.descriptors[number]}" for number in sorted(opened)]


@contextmanager
def nothing_held(*, settles_within: timedelta = SETTLES_WITHIN) -> Iterator[None]:
    """Fail if the block leaves a thread or a descriptor behind; what is just ending is given a while."""
    before = Holdings.now()
    yield
    eventually(lambda: not Holdings.now().beyond(before), within=settles_within)
    left = Holdings.now().beyond(before)
    assert not left, f"left behind: {', '.join(left)}"


def containers_of(installation: str) -> list[str]:
    """The names of all containers, running or not, of that installation."""
    client = docker.from_env()
    try:
        label = f"{INSTALLATION_LABEL}={installation}"
        return [name for each in client.api.containers(all=True, filters={"label": label}) for name in each["Names"]]
    finally:
        client.close()


@contextmanager
def no_container_of(installation: str, *, settles_within: timedelta = SETTLES_WITHIN) -> Iterator[None]:
    """Fail if a container of that installation is there after the block."""
    yield
    eventually(lambda: not containers_of(installation), within=settles_within)
    left = containers_of(installation)
    assert not left, f"containers left behind: {', '.join(left)}"


def _descriptors() -> Iterator[tuple[str, str]]:
    for entry in Path("/proc/self/fd").iterdir():
        try:
            yield entry.name, str(entry.readlink())
        except FileNotFoundError:
            continue  # the one that listed the directory is closed by now
