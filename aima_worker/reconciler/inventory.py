"""The containers of this installation on this host, and what their labels tell.

Those that carry its labels and that this version cannot make out are strangers: told by name, and left alone.
Containers of another installation are not even listed.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from aima_core.domain.ids import InstanceId, ServiceId
from aima_core.domain.operations import StartService
from aima_core.errors import BadId
from aima_worker.context import HostContext
from aima_worker.operations.container_spec import COMMAND_LABEL, IMAGE_LABEL, PORT_LABEL, Granted, of_installation, ours
from aima_worker.runtime import Container, Status


@dataclass(frozen=True)
class ManagedContainer:
    """A container, and by which command, on which port, from which image and by which operation it is there."""

    container: Container
    id: InstanceId
    command: StartService
    port: int
    image: str
    """Empty for a native process."""
    granted: Granted

    @property
    def service(self) -> ServiceId:
        return self.command.service

    @property
    def fence(self) -> int:
        return self.granted.fence

    @property
    def runs(self) -> bool:
        return self.container.status is Status.RUNNING


class Inventory(NamedTuple):
    managed: dict[ServiceId, ManagedContainer]
    unrecognized: tuple[str, ...]


def scan(host: HostContext) -> Inventory:
    """Raises DockerUnavailable."""
    listed = host.runtime.containers(of_installation(host))
    told = [(container.name, known_by_labels(host, container)) for container in listed]
    return Inventory(
        {known.service: known for _, known in told if known},
        tuple(sorted(name for name, known in told if known is None)),
    )


def known_by_labels(host: HostContext, container: Container) -> ManagedContainer | None:
    """None where they make no sense to this version, or are another host's."""
    labels = container.labels
    try:
        command = _command(labels[COMMAND_LABEL])
        port, granted = int(labels[PORT_LABEL]), Granted.told_by(labels)
    except (KeyError, ValueError, BadId):
        return None
    if not ours(host).items() <= labels.items() or container.name != host.container_name(command.service):
        return None
    return ManagedContainer(
        container, command.service.on(host.name), command, port, labels.get(IMAGE_LABEL, ""), granted
    )


@lru_cache(maxsize=256)
def _command(text: str) -> StartService:
    """Containers are looked at again and again, and keep their labels."""
    return StartService.model_validate_json(text)


class ConditionTimer:
    def __init__(self) -> None:
        self._since: dict[Hashable, float] = {}
        self._seen: set[Hashable] = set()

    def next_pass(self) -> None:
        """A look begins: what was not seen in the last one is so no more."""
        self._since = {what: since for what, since in self._since.items() if what in self._seen}
        self._seen = set()

    def held_for(self, what: Hashable) -> float:
        """For how long this has been seen in every look; 0 the first time."""
        now = time.monotonic()
        self._seen.add(what)
        return now - self._since.setdefault(what, now)
