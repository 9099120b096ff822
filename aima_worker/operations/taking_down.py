"""Taking a service's container down, whoever wants it: one of that name that AIMA has not made is left alone."""

from __future__ import annotations

from datetime import timedelta

from aima_core.domain.ids import ServiceId
from aima_core.domain.services import InstanceState
from aima_core.errors import Cancelled, Failure
from aima_worker.context import HostContext
from aima_worker.operations.container_spec import ours


def remove_container(host: HostContext, service: ServiceId, *, grace: timedelta) -> None:
    """When it returns, the service has no container on this host. Raises what a runtime's `remove` does."""
    container = host.runtime.find(host.container_name(service))
    if container is not None and ours(host).items() <= container.labels.items():
        host.runtime.remove(container.name, grace=grace)


def state_after(failure: Failure | None) -> InstanceState:
    """What an instance is that was taken down for this failure, or because it was stopped."""
    if failure is None or failure.code == Cancelled.code:
        return InstanceState.STOPPED
    return InstanceState.FAILED
