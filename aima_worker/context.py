"""This host as its steps see it: its name and settings, its runtime, the shared records, and what is under way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from threading import Event as Flag
from threading import RLock

from pydantic import SecretStr

from aima_core.domain.catalog import Arch
from aima_core.domain.ids import HostName, Route, ServiceId
from aima_core.domain.resources import HostCapacity
from aima_core.queue.notifier import Notifier
from aima_core.scheduling.pending import PendingReasons
from aima_core.settings import Settings
from aima_core.store.allocations import AllocationStore
from aima_core.store.claims import ClaimStore
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore
from aima_core.store.ports import PortStore
from aima_core.store.services import ServiceStore
from aima_worker.execution.claim_renewal import ClaimRenewer
from aima_worker.node.memory_guard import MemoryWatchdog
from aima_worker.operations.image_pulls import PullCoordinator
from aima_worker.runtime import ContainerRuntime

Probe = Callable[[str], int]
"""Asks a URL and gives the HTTP status; raises OSError when nothing answers."""


@dataclass(frozen=True)
class HostContext:
    name: HostName
    arch: Arch
    routes: tuple[Route, ...]
    """The queues it takes starts and pulls from."""
    settings: Settings
    signing_key: SecretStr
    native: bool
    """It runs processes, not containers: engines need a `native` section, and images play no part."""
    runtime: ContainerRuntime
    operations: OperationStore
    claim_store: ClaimStore
    services: ServiceStore
    ports: PortStore
    allocations: AllocationStore
    hosts: HostStore
    notifier: Notifier
    pending_reasons: PendingReasons
    capacity: Callable[[], HostCapacity]
    """What this machine can give, asked anew."""
    memory_watchdog: MemoryWatchdog
    claims: ClaimRenewer
    probe: Probe
    pulls: PullCoordinator = field(init=False)
    capacity_freed: Flag = field(init=False, default_factory=Flag)
    """Set when this host has room again for what waits."""
    engine_unavailable: Flag = field(init=False, default_factory=Flag)
    """Set while the container engine does not answer: no start or pull is taken on meanwhile."""
    _locks: defaultdict[ServiceId, RLock] = field(init=False, default_factory=lambda: defaultdict(RLock))

    def __post_init__(self) -> None:
        object.__setattr__(self, "pulls", PullCoordinator(self.runtime, stall=self.settings.docker.stall))

    def capacity_now(self) -> HostCapacity:
        """None for any start or pull while the container engine is away."""
        room = self.capacity()
        return room.model_copy(update={"slots": 0}) if self.engine_unavailable.is_set() else room

    def service_lock(self, service: ServiceId) -> AbstractContextManager[object]:
        """While inside, nobody else on this host makes or removes the service's container."""
        return self._locks[service]

    def release_resources(self, service: ServiceId, *, fence: int) -> None:
        """Its port, memory and GPUs, since its container is gone; unless a later operation was given them since."""
        self.ports.release(service.on(self.name), fence=fence)
        self.allocations.release(self.name, service, fence=fence)
        self.capacity_freed.set()

    def container_name(self, service: ServiceId) -> str:
        """One name for one instance of this installation, so that a doubled start cannot make a second container."""
        return f"{self.settings.installation}.{service}.{self.name}"
