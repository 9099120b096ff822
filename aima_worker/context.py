"""The host context: what every step of an operation on this host shares. Made once, by the composition root."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Event as Flag
from threading import RLock
from typing import TYPE_CHECKING

from aima_core.domain.catalog import Arch
from aima_core.domain.ids import HostName, Route, ServiceId
from aima_core.domain.models import Manifest
from aima_core.domain.operations import StartService
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
from aima_core.system.loopback import LOOPBACK, is_loopback, loopback_id
from aima_core.trust.keys import KeyRing
from aima_worker.inference.http import Ask
from aima_worker.runtime import ContainerRuntime
from aima_worker.secrets import HostSecrets

if TYPE_CHECKING:  # their rooms import this module
    from aima_worker.dataplane.files import EngineAddresses
    from aima_worker.execution.claim_renewal import ClaimRenewer
    from aima_worker.execution.fences import FenceMemory
    from aima_worker.models.collection import ModelCollector
    from aima_worker.models.steps import FetchCoordinator
    from aima_worker.models.store import ModelStore
    from aima_worker.node.disk_guard import DiskGuard
    from aima_worker.node.guarding import Violations
    from aima_worker.node.memory_guard import MemoryGuard
    from aima_worker.operations.pull import PullCoordinator

NO_MEMORY = -1
"""Less than the least request."""
Probe = Callable[[str], int]
"""Requests a URL and returns the HTTP status; raises OSError if nothing answers."""


@dataclass(frozen=True)
class Timings:
    """Intervals and delays that tests shorten."""

    pull_retry_delays: tuple[timedelta, ...] = (timedelta(seconds=1), timedelta(seconds=4))
    """Before each further try at an image whose pull broke or stalled."""
    engine_wait_timeout: timedelta = timedelta(minutes=2)
    """How long a stop waits for a container engine that does not answer."""
    restart_delays: tuple[timedelta, ...] = (timedelta(seconds=1), timedelta(seconds=3), timedelta(seconds=8))
    """Before the first, second and third restart of an engine that exited."""
    memory_check_interval: timedelta = timedelta(seconds=1)
    disk_check_interval: timedelta = timedelta(seconds=1)
    stable_after: timedelta = timedelta(seconds=4)
    """A disagreement of record and container that is younger may be an operation whose message is on its way."""
    orphaned_after: timedelta = timedelta(seconds=4)
    """A lease without a container that is younger may belong to a start that has just begun."""
    mass_loss_delay: timedelta = timedelta(seconds=3)
    """The timeout after which most containers, if missing concurrently, count as removed."""
    resources_interval: timedelta = timedelta(seconds=15)
    """Between two passes over port leases and allocations."""


@dataclass(frozen=True)
class HostContext:
    name: HostName
    arch: Arch
    routes: tuple[Route, ...]
    """The queues that starts and pulls are taken from."""
    settings: Settings
    """Without `signing_key`: a host keeps public keys only."""
    keys: KeyRing
    native: bool
    """It runs processes instead of containers: engines need a `native` section, and no image is pulled."""
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
    """The machine's capacity, measured at each call."""
    memory_guard: MemoryGuard
    disk_guard: DiskGuard
    violations: Violations
    """Why one of these guards has killed instances."""
    claims: ClaimRenewer
    fences: FenceMemory
    pulls: PullCoordinator
    models: ModelStore
    fetches: FetchCoordinator
    collector: ModelCollector
    secrets: HostSecrets
    addresses: EngineAddresses
    probe: Probe
    ask: Ask
    capacity_freed: Flag
    """Wakes the redelivery loop, which notifies this host's workers of pending operations that now fit."""
    timings: Timings = field(default_factory=Timings)
    engine_unavailable: Flag = field(init=False, default_factory=Flag)
    """Set while the container engine does not answer; no start or pull is claimed then."""
    _locks: defaultdict[ServiceId, RLock] = field(init=False, default_factory=lambda: defaultdict(RLock))

    def capacity_now(self) -> HostCapacity:
        """Without slots while the container engine is unavailable, without memory while it or the disk is too low."""
        disk = self.fetches.disk if self.fetches.measured else None
        capacity = self.capacity().model_copy(update={"model_disk": disk and max(0, disk.usable)})
        if self.memory_guard.low is not None:
            capacity = capacity.model_copy(update={"available": NO_MEMORY})
        if self.disk_guard.low is not None:
            capacity = capacity.model_copy(update={"available": NO_MEMORY})
        return capacity.model_copy(update={"slots": 0}) if self.engine_unavailable.is_set() else capacity

    def service_lock(self, service: ServiceId) -> AbstractContextManager[object]:
        """While inside, no other thread of this worker creates or removes the service's container."""
        return self._locks[service]

    def release_resources(self, service: ServiceId, *, fence: int) -> None:
        """Releases port, memory and GPUs of a container that is gone, unless a higher fence holds them by now."""
        self.addresses.drop(service.on(self.name), fence=fence)  # first: the port may be leased to another instance
        self.ports.release(service.on(self.name), fence=fence)
        self.release_allocation(service, fence=fence)

    def release_allocation(self, service: ServiceId, *, fence: int) -> None:
        """Releases memory and GPUs only: the start that was granted them created nothing."""
        self.allocations.release(self.name, service, fence=fence)
        self.capacity_freed.set()

    def mark_loaded(self, service: ServiceId) -> None:
        """The service no longer loads, so that the next model may."""
        self.allocations.mark_loaded(self.name, service)
        self.capacity_freed.set()

    def using_model(self, manifest: Manifest | None, by: str) -> AbstractContextManager[object]:
        """While inside, no removal or collection takes the model's files."""
        return self.models.uses.using(manifest, by) if manifest else nullcontext()

    def container_name(self, service: ServiceId) -> str:
        """One name per instance and installation, so that a duplicate start cannot create a second container."""
        return f"{self.settings.installation}.{service}.{self.name}"

    def address_of(self, command: StartService) -> str:
        """Where its engine listens: on the loopback of this host, unless the service is exposed.

        A command of an earlier version was exposed. A container engine on another machine has another loopback.
        """
        address = self.settings.host.address
        exposed = command.expose is not False or not self.runtime.is_local
        return address if exposed or is_loopback(address) else LOOPBACK

    def endpoint(self, command: StartService, port: int) -> str:
        """Of its engine, as this host reaches it."""
        address = self.address_of(command)
        return f"http://{f'[{address}]' if ':' in address else address}:{port}"

    def reached_by(self) -> dict[str, str | None]:
        """How gateways reach the engines of this host: fields of their instances' records."""
        return {
            "dataplane": self.settings.dataplane_url,
            "loopback": loopback_id() if self.runtime.is_local else None,
        }
