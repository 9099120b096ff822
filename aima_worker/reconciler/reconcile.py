"""Makes records and containers agree again after something was lost: a worker, a message, a host, or Redis' data.

What runs is adopted, what is half made is finished or cleared, what is no longer wanted is stopped. Nothing that runs
is removed because a record is missing: without one a container is wanted, since a stop would have removed it.
"""

from __future__ import annotations

from datetime import timedelta

import structlog

from aima_core.domain.operations import Operation, State
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.domain.units import format_duration
from aima_core.errors import (
    AimaError,
    ContainerExited,
    ContainerRemoved,
    EngineRefused,
    HealthTimeout,
    OperationLost,
    UnknownOperation,
)
from aima_worker.context import HostContext
from aima_worker.operations.instance_start import GRACE
from aima_worker.operations.readiness import answers_well, health_url, patience_with
from aima_worker.operations.teardown import fail_instance, remove_container, state_after, update_status
from aima_worker.reconciler.adoption import adopt, become_ready
from aima_worker.reconciler.inventory import ConditionTimer, ManagedContainer
from aima_worker.runtime import Status

SETTLES_SECONDS = 4.0
"""What is odd for no longer may be on its way: an order has been put down, and its doorbell is about to be heard."""
CREATED_SECONDS = 4.0
"""A container that nobody has started for so long is nobody's any more."""
_GONE = (InstanceState.STOPPED, InstanceState.FAILED)

_log = structlog.get_logger()


class InstanceReconciler:
    """To be asked about services that nothing is under way for here. Raises DockerUnavailable, BrokerUnavailable."""

    def __init__(self, host: HostContext, timer: ConditionTimer) -> None:
        self._host = host
        self._timer = timer

    def adopt(self, known: ManagedContainer) -> None:
        """A container that there is no record of."""
        if known.container.status is not Status.CREATED:
            adopt(self._host, known, instead_of=None)
        elif self._timer.held_for((known.id, "created")) >= CREATED_SECONDS:
            self._clear(known)

    def reconcile(self, instance: Instance, known: ManagedContainer | None) -> None:
        """One that is not ready, or shall not run."""
        if instance.desired is Desired.RUNNING and instance.state is InstanceState.STARTING:
            self._finish(instance, known)
        elif known is None:
            if instance.state not in _GONE and self._is_stable(instance, "is not there"):
                self._stop(instance)
        elif instance.desired is Desired.STOPPED and instance.fence >= known.fence:
            if self._is_stable(instance, "is not wanted"):
                _log.warning("a container is no longer wanted", instance=instance.id, since_fence=instance.fence)
                self._stop(instance)
        elif known.runs:
            if self._is_stable(instance, "runs"):
                adopt(self._host, known, instead_of=instance)
        elif self._is_stable(instance, "is left over"):
            self._clear(known)

    def resume_teardown(self, instance: Instance) -> None:
        """The container engine went away before it was done, or refused."""
        with self._host.service_lock(instance.id.service):
            if not self._is_as_seen(instance):
                return
            try:
                remove_container(self._host, instance.id.service, grace=timedelta())
            except EngineRefused as refused:
                _log.warning("container cannot be taken down", instance=instance.id, why=str(refused))
                return
            self._host.release_resources(instance.id.service, fence=instance.fence)
            update_status(self._host, instance, state=state_after(instance.failure), port=None, endpoint=None)

    # What is half made ----------------------------------------------------------------------------------------------

    def _finish(self, instance: Instance, known: ManagedContainer | None) -> None:
        operation = self._operation_of(instance)
        if operation is not None and not operation.state.ended:
            return  # somebody carries it out, or is about to: the sweep sees to that
        if known is None:
            if self._is_stable(instance, "is not there"):
                self._fail_abandoned_start(instance, operation)
        elif known.container.status is Status.CREATED:
            if self._timer.held_for((known.id, "created")) >= CREATED_SECONDS:
                self._fail_abandoned_start(instance, operation)
        elif not known.runs:
            how = known.container.exit_code
            fail_instance(self._host, instance, ContainerExited(exit_status=how, service=known.service))
        elif answers_well(self._host, known):
            become_ready(self._host, instance, known)
        elif self._timer.held_for((instance.id, "loads")) >= patience_with(known).total_seconds():
            fail_instance(self._host, instance, self._too_slow(known))

    def _operation_of(self, instance: Instance) -> Operation | None:
        try:
            return self._host.operations.get(instance.operation) if instance.operation else None
        except UnknownOperation:
            return None

    def _too_slow(self, known: ManagedContainer) -> AimaError:
        waited = format_duration(patience_with(known))
        return HealthTimeout(waited=waited, url=health_url(self._host, known), last="no good answer")

    def _fail_abandoned_start(self, instance: Instance, operation: Operation | None) -> None:
        """Its operation has ended, or is lost, and nothing runs: say so as the operation does."""
        if operation is None:
            fail_instance(self._host, instance, OperationLost())
        elif operation.state is not State.SUCCEEDED:
            self._stop(instance.model_copy(update={"failure": operation.failure}))
        elif operation.host == self._host.name:
            fail_instance(self._host, instance, ContainerRemoved(service=instance.id.service, host=self._host.name))
        else:  # another host has taken it on
            gone = {"desired": Desired.STOPPED, "state": InstanceState.STOPPED}
            self._host.services.replace_desired(instance.model_copy(update=gone))

    def _clear(self, known: ManagedContainer) -> None:
        """What does not run, and nobody is at work on."""
        with self._host.service_lock(known.service):
            found = self._host.runtime.find(known.container.name)
            if found is None or found.status is Status.RUNNING or self._host.claims.is_running(known.service):
                return
            _log.warning("what was left half made is cleared away", container=found.name, status=found.status)
            remove_container(self._host, known.service, grace=GRACE)
            self._host.release_resources(known.service, fence=known.fence)

    # What is not wanted ---------------------------------------------------------------------------------------------

    def _stop(self, instance: Instance) -> None:
        with self._host.service_lock(instance.id.service):
            if self._is_as_seen(instance):
                remove_container(self._host, instance.id.service, grace=GRACE)
                self._host.release_resources(instance.id.service, fence=instance.fence)
                update_status(self._host, instance, state=state_after(instance.failure), port=None, endpoint=None)

    def _is_as_seen(self, instance: Instance) -> bool:
        """To be asked where nobody else can act: something else may have been asked for since the look began."""
        told = self._host.services.instance(instance.id)
        same = told is not None and (told.fence, told.desired, told.state) == (
            instance.fence,
            instance.desired,
            instance.state,
        )
        return same and not self._host.claims.is_running(instance.id.service)

    def _is_stable(self, instance: Instance, how: str) -> bool:
        return self._timer.held_for((instance.id, instance.fence, instance.state, how)) >= SETTLES_SECONDS
