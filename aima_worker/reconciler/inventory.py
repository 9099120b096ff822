"""Inventory: the containers of this installation on this host, managed or unrecognized, as their labels say.

A container with our labels that this version cannot parse, whose labels have a newer version, or that no order of this
installation explains, is unrecognized: reported by name, and left alone.
Containers of another installation are not listed at all.
"""

import time
from collections.abc import Hashable
from datetime import timedelta
from typing import NamedTuple

from aima_core.domain.ids import ServiceId
from aima_worker.context import HostContext
from aima_worker.operations.container_spec import (
    of_installation,
)
from aima_worker.operations.managed import ManagedContainer, recognize


class Inventory(NamedTuple):
    managed: dict[ServiceId, ManagedContainer]
    unrecognized: tuple[str, ...]


def scan(host: HostContext) -> Inventory:
    """Raises DockerUnavailable."""
    listed = host.runtime.containers(of_installation(host))
    parsed = [(container.name, recognize(host, container)) for container in listed]
    return Inventory(
        {managed.service: managed for _, managed in parsed if managed},
        tuple(sorted(name for name, managed in parsed if managed is None)),
    )


class ConditionTimer:
    """Debounces conditions that a race can show for a moment, like the `for:` of a Prometheus alert."""

    def __init__(self) -> None:
        self._since: dict[Hashable, float] = {}
        self._seen: set[Hashable] = set()

    def next_pass(self) -> None:
        """Forgets the conditions that the previous pass did not see."""
        self._since = {condition: since for condition, since in self._since.items() if condition in self._seen}
        self._seen = set()

    def held_for(self, condition: Hashable) -> timedelta:
        """For how long every pass has seen the condition; zero the first time."""
        now = time.monotonic()
        self._seen.add(condition)
        return timedelta(seconds=now - self._since.setdefault(condition, now))
