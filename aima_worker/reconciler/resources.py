"""Reconciles port leases and allocations in Redis with the containers that own them, and raises its last fence.

What a container lacks is restored; what no container owns is released, once it has been orphaned for some seconds and
an engine that answers lists no container for it: an unavailable Redis or engine never releases anything.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress

import structlog

from aima_core.domain.hosts import PortLease
from aima_core.domain.ids import ServiceId
from aima_core.domain.resources import Allocation
from aima_core.domain.services import Instance, InstanceState
from aima_core.errors import BadId
from aima_core.trust.orders import highest_fence
from aima_worker.context import HostContext
from aima_worker.operations.container_spec import SECRETS_LABEL
from aima_worker.operations.managed import ManagedContainer, recognize, restore_resources
from aima_worker.operations.previous import WAS_READY
from aima_worker.operations.teardown import is_current
from aima_worker.reconciler.inventory import ConditionTimer
from aima_worker.runtime import Container, Status

_log = structlog.get_logger()


class ResourceReconciler:
    def __init__(self, host: HostContext, timer: ConditionTimer) -> None:
        self._host = host
        self._timer = timer
        self._highest_fence = 0

    def reconcile(self, instances: Mapping[ServiceId, Instance], managed: Mapping[ServiceId, ManagedContainer]) -> bool:
        """Returns False if the next pass must follow soon: something may be orphaned."""
        highest = max([self._host.fences.highest(), *(each.fence for each in managed.values())])
        if self._highest_fence < highest <= highest_fence():  # what Redis alone knows may be forged
            self._host.services.raise_fence(highest)
            self._highest_fence = highest
        leases = {lease.holder.service: lease for lease in self._host.ports.all()}
        held = self._host.allocations.held(self._host.name)
        for service in self._idle(managed.keys()):
            if managed[service].container.status is not Status.CREATED:
                self._restore(managed[service], leases.get(service), held.get(service), instances.get(service))
        self._discard_secrets()
        addressed = {instance.service for instance in self._host.addresses.instances()}
        orphaned = self._idle((leases.keys() | held.keys() | addressed) - managed.keys())
        released = [self._release(service, leases.get(service), held.get(service)) for service in orphaned]
        return all(released)

    def _discard_secrets(self) -> None:
        """The copies of secrets whose container is gone, or uses a newer one."""
        copies = self._host.secrets.files
        for service in self._idle(self._services_with(copies.containers())):
            name = self._host.container_name(service)
            with self._host.service_lock(service):
                if not self._host.claims.is_running(service):
                    copies.discard(name, keep=_version_in(self._host.runtime.find(name)))

    def _services_with(self, containers: Iterable[str]) -> set[ServiceId]:
        """Without those of another host or installation, whose worker shares the directory."""
        found = set()
        for name in containers:
            with suppress(BadId):
                service = ServiceId(name.removeprefix(f"{self._host.settings.installation}.").rpartition(".")[0])
                found |= {service} if name == self._host.container_name(service) else set()
        return found

    def _idle(self, services: AbstractSet[ServiceId]) -> list[ServiceId]:
        return [service for service in services if not self._host.claims.is_running(service)]

    def _restore(
        self, managed: ManagedContainer, lease: PortLease | None, held: Allocation | None, instance: Instance | None
    ) -> None:
        loading = instance is not None and instance.state is InstanceState.STARTING
        persistent = lease is not None and lease.until is None and lease.port == managed.port
        listens = (self._host.address_of(managed.command), managed.port)
        recorded = self._host.addresses.find(managed.id)
        addressed = recorded is not None and (recorded.address, recorded.port) == listens
        if instance is not None and instance.state in WAS_READY and self._is_reached_otherwise(instance):
            with self._host.service_lock(managed.service):
                if is_current(self._host, instance):
                    self._host.services.update_status(instance.model_copy(update=self._host.reached_by()))
        if persistent and addressed and held is not None and (loading or not held.loading):
            return
        with self._host.service_lock(managed.service):
            found = self._host.runtime.find(managed.container.name)
            current = recognize(self._host, found) if found else None  # race: a start may have replaced it since
            if current is not None and not self._host.claims.is_running(managed.service):
                _log.info("port lease and allocation restored", instance=managed.id, port=current.port)
                restore_resources(self._host, current, instance)

    def _is_reached_otherwise(self, instance: Instance) -> bool:
        """Since its record was written, as after an upgrade, a reboot or a change of the settings."""
        return any(getattr(instance, name) != value for name, value in self._host.reached_by().items())

    def _release(self, service: ServiceId, lease: PortLease | None, held: Allocation | None) -> bool:
        """Returns False until they have been orphaned for long enough."""
        addressed = self._host.addresses.find(service.on(self._host.name))
        fence = max(each.fence if each else 0 for each in (lease, held, addressed))
        if self._timer.held_for((service, fence, "orphaned")) < self._host.timings.orphaned_after:
            return False
        with self._host.service_lock(service):
            found = self._host.runtime.find(self._host.container_name(service))
            if found is None and not self._host.claims.is_running(service):
                _log.warning("orphaned resources released", service=service, port=lease and lease.port)
                self._host.release_resources(service, fence=fence)
        return True


def _version_in(container: Container | None) -> str | None:
    return container.labels.get(SECRETS_LABEL) if container else None
