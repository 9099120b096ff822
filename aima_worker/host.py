"""This host as its steps see it: its name and settings, its runtime, the shared records, and what is under way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from threading import RLock

from pydantic import SecretStr

from aima_core.catalog import Arch
from aima_core.ids import HostName, ServiceId
from aima_core.operation_store import OperationStore
from aima_core.port_store import PortStore
from aima_core.service_store import ServiceStore
from aima_core.settings import Settings
from aima_worker.keeper import Keeper
from aima_worker.pulls import Pulls
from aima_worker.runtime import ContainerRuntime

Probe = Callable[[str], int]
"""Asks a URL and gives the HTTP status; raises OSError when nothing answers."""


@dataclass(frozen=True)
class Host:
    name: HostName
    arch: Arch
    settings: Settings
    signing_key: SecretStr
    native: bool
    """It runs processes, not containers: engines need a `native` section, and images play no part."""
    runtime: ContainerRuntime
    operations: OperationStore
    services: ServiceStore
    ports: PortStore
    keeper: Keeper
    probe: Probe
    pulls: Pulls = field(init=False)
    _locks: defaultdict[ServiceId, RLock] = field(init=False, default_factory=lambda: defaultdict(RLock))

    def __post_init__(self) -> None:
        object.__setattr__(self, "pulls", Pulls(self.runtime, stall=self.settings.docker.stall))

    def exclusively(self, service: ServiceId) -> AbstractContextManager[object]:
        """While inside, nobody else on this host makes or removes the service's container."""
        return self._locks[service]

    def container_name(self, service: ServiceId) -> str:
        """One name for one instance of this installation, so that a doubled start cannot make a second container."""
        return f"{self.settings.installation}.{service}.{self.name}"
