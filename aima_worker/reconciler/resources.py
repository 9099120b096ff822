"""What this host's containers hold, against what Redis says that they do: ports, memory and GPUs, and their fences.

Put right both ways. What is held by no container is given back only once it was seen twice, some seconds apart, and an
engine that answers has listed none: never because Redis or the engine is silent.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import structlog

from aima_core.domain.hosts import PortLease
from aima_core.domain.ids import ServiceId
from aima_core.domain.resources import Allocation
from aima_core.domain.services import Instance, InstanceState
from aima_worker.context import HostContext
from aima_worker.reconciler.adoption import hold
from aima_worker.reconciler.inventory import ConditionTimer, ManagedContainer
from aima_worker.runtime import Status

LEFT_SECONDS = 4.0
"""What is held by nothing for no longer may be a start's that is just being begun."""

_log = structlog.get_logger()


class ResourceReconciler:
    def __init__(self, host: HostContext, timer: ConditionTimer) -> None:
        self._host = host
        self._timer = timer
        self._highest_fence = 0

    def reset(self) -> None:
        """Redis has lost its data: say everything again."""
        self._highest_fence = 0

    def reconcile(self, instances: Mapping[ServiceId, Instance], known: Mapping[ServiceId, ManagedContainer]) -> bool:
        """False when something is to be looked at again soon."""
        self._raise_fence(instances, known)
        leases = {lease.holder.service: lease for lease in self._host.ports.all()}
        held = self._host.allocations.held(self._host.name)
        for service in self._idle(known.keys()):
            if known[service].container.status is not Status.CREATED:
                self._have_held(known[service], leases.get(service), held.get(service), instances.get(service))
        left = self._idle((leases.keys() | held.keys()) - known.keys())
        given_back = [self._give_back(service, leases.get(service), held.get(service)) for service in left]
        return all(given_back)

    def _idle(self, services: AbstractSet[ServiceId]) -> list[ServiceId]:
        return [service for service in services if not self._host.claims.is_running(service)]

    def _raise_fence(
        self, instances: Mapping[ServiceId, Instance], known: Mapping[ServiceId, ManagedContainer]
    ) -> None:
        fences = [each.fence for each in instances.values()] + [each.fence for each in known.values()]
        highest = max(fences, default=0)
        if highest > self._highest_fence:
            self._host.services.raise_fence(highest)
            self._highest_fence = highest

    def _have_held(
        self, known: ManagedContainer, lease: PortLease | None, held: Allocation | None, instance: Instance | None
    ) -> None:
        loads = instance is not None and instance.state is InstanceState.STARTING
        lasts = lease is not None and lease.until is None and lease.port == known.port
        if lasts and held is not None and (loads or not held.loading):
            return
        with self._host.service_lock(known.service):
            found = self._host.runtime.find(known.container.name)
            if found is not None and not self._host.claims.is_running(known.service):
                _log.info("what a container holds is put down again", instance=known.id, port=known.port)
                hold(self._host, known, instance)

    def _give_back(self, service: ServiceId, lease: PortLease | None, held: Allocation | None) -> bool:
        """False until it has been seen for a while."""
        fence = max(lease.fence if lease else 0, held.fence if held else 0)
        if self._timer.held_for((service, fence, "held by nothing")) < LEFT_SECONDS:
            return False
        with self._host.service_lock(service):
            found = self._host.runtime.find(self._host.container_name(service))
            if found is None and not self._host.claims.is_running(service):
                _log.warning("held by no container, and given back", service=service, port=lease and lease.port)
                self._host.release_resources(service, fence=fence)
        return True
