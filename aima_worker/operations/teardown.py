"""Teardown of an instance: remove its container, release its port and allocation, update its status; in this order.

A crash between two steps leaves the status as it was, so that the reconciler repeats all of them. Nothing is released
while the container may still run: its port would be leased to another instance.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import structlog
from pydantic import ValidationError

from aima_core.domain.ids import ServiceId
from aima_core.domain.services import Instance, InstanceState
from aima_core.errors import AimaError, Cancelled, EngineRefused
from aima_core.store.operations import now
from aima_worker.context import HostContext
from aima_worker.operations.container_spec import model_of, ours
from aima_worker.operations.readiness import last_lines

GRACE = timedelta(seconds=5)
"""Of a container that is rolled back, replaced or no longer desired."""

_log = structlog.get_logger()


def teardown(
    host: HostContext,
    instance: Instance,
    *,
    grace: timedelta,
    guard: Callable[[], bool] = lambda: True,
    keep_status: bool = False,
    postponed_on: tuple[type[AimaError], ...] = (),
) -> bool:
    """Returns whether nothing of the instance is left. It becomes FAILED by a failure, else STOPPED.

    `guard` is evaluated under the service's lock; if it is false, nothing is done. The errors of `postponed_on` leave
    the instance STOPPING, to be resumed by the reconciler. Raises what else a runtime's `remove` raises.
    """
    service = instance.id.service
    with host.service_lock(service):
        if not guard():
            return False
        try:
            remove_container(host, service, grace=grace)
        except postponed_on as postponed:
            _log.warning("teardown postponed", instance=instance.id, reason=str(postponed))
            if instance.state is not InstanceState.STOPPING:
                update_status(host, instance, state=InstanceState.STOPPING)
            return False
        host.release_resources(service, fence=instance.fence)
        _forget_previous(host, instance)
        if not keep_status:
            failed = instance.failure is not None and instance.failure.code != Cancelled.code
            state = InstanceState.FAILED if failed else InstanceState.STOPPED
            update_status(host, instance, state=state, port=None, endpoint=None)
        return True


def _forget_previous(host: HostContext, instance: Instance) -> None:
    """Drops the previous revision, and releases its port."""
    previous = host.fences.previous(instance.id.service)
    if previous is not None and previous.instance.port is not None:
        host.ports.release(instance.id, fence=instance.fence, port=previous.instance.port)
    host.fences.remember(instance.id.service, None)


def teardown_if_current(host: HostContext, seen: Instance, *, grace: timedelta = GRACE) -> None:
    """The reconciler's teardown: of an instance that has not changed since it was read."""
    teardown(host, seen, grace=grace, guard=lambda: is_current(host, seen), postponed_on=(EngineRefused,))


def fail_instance(host: HostContext, instance: Instance, failed: AimaError) -> None:
    """Tears the instance down at once and marks it FAILED, with its container's last log lines."""
    with host.service_lock(instance.id.service):
        if is_current(host, instance):
            failed.remember(last_lines(host, host.container_name(instance.id.service)))
            _log.warning("instance failed", instance=instance.id, reason=str(failed))
            failing = instance.model_copy(update={"failure": failed.failure})
            teardown_if_current(host, failing, grace=timedelta())


def is_current(host: HostContext, seen: Instance) -> bool:
    """The instance is as it was read, and no operation on it runs. Race: call it under the service's lock."""
    if host.claims.is_running(seen.id.service):
        return False
    latest = host.services.instance(seen.id)
    return latest is not None and (latest.fence, latest.desired, latest.state) == (seen.fence, seen.desired, seen.state)


def update_status(host: HostContext, instance: Instance, **changes: Any) -> bool:
    """Records the instance's status; False if a higher fence has set its desired state since it was read."""
    return host.services.update_status(instance.model_copy(update={**changes, "since": now()}))


def remove_container(host: HostContext, service: ServiceId, *, grace: timedelta) -> None:
    """When it returns, the service has no container on this host. Raises what a runtime's `remove` raises."""
    name = host.container_name(service)
    container = host.runtime.find(name)
    if container is not None and ours(host).items() <= container.labels.items():
        host.runtime.remove(name, grace=grace)
        with suppress(ValidationError):
            if manifest := model_of(container.labels):
                host.models.uses.record(manifest)
    host.secrets.files.discard(name)
