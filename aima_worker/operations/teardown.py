"""Ending what an instance was for a reason: its container is taken down, what it held given back, the record says why.

Only while nobody has asked for anything else since it was looked at.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import structlog

from aima_core.domain.ids import ServiceId
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.errors import AimaError, Cancelled, Failure
from aima_core.store.operations import now
from aima_worker.context import HostContext
from aima_worker.operations.container_spec import ours
from aima_worker.operations.readiness import last_lines

_log = structlog.get_logger()


def fail_instance(host: HostContext, instance: Instance, failed: AimaError) -> None:
    """Mark it failed, with its container's last lines, and leave nothing of it."""
    service = instance.id.service
    with host.service_lock(service):
        if not is_current(host, instance):
            return
        failed.remember(last_lines(host, host.container_name(service)))
        _log.warning("engine failed", instance=instance.id, why=str(failed))
        remove_container(host, service, grace=timedelta())
        host.release_resources(service, fence=instance.fence)
        update_status(host, instance, state=InstanceState.FAILED, failure=failed.failure, port=None, endpoint=None)


def is_current(host: HostContext, instance: Instance) -> bool:
    """To be asked where nobody else can act: a stop may have come since the look began."""
    told = host.services.instance(instance.id)
    idle = not host.claims.is_running(instance.id.service)
    return idle and told is not None and told.desired is Desired.RUNNING and told.fence == instance.fence


def update_status(host: HostContext, instance: Instance, **changes: Any) -> bool:
    """Put down what it is now; False when it has been told to be something else since."""
    return host.services.update_status(instance.model_copy(update={**changes, "since": now()}))


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
