"""Reconciles records and containers after something was lost: a worker, a message, a host, or Redis' data.

A missing record never removes a running container: it counts as desired, since a stop would have removed it. Every
disagreement must be stable for some seconds, since an operation that resolves it may be on its way.
"""

from datetime import timedelta

import structlog

from aima_core.domain.ids import ServiceId
from aima_core.domain.operations import Operation, State
from aima_core.domain.services import GONE, Desired, Instance, InstanceState
from aima_core.domain.units import format_duration
from aima_core.errors import (
    ChangeNotMade,
    ContainerExited,
    ContainerRemoved,
    EngineRefused,
    HealthTimeout,
    OperationLost,
    UnknownOperation,
)
from aima_core.store.operations import now
from aima_worker.context import HostContext
from aima_worker.operations.managed import ManagedContainer, restore_resources
from aima_worker.operations.previous import (
    WAS_READY,
    Candidate,
    Outcome,
    make_current,
    outcome_of,
    restore_previous,
    settle_change,
)
from aima_worker.operations.teardown import GRACE, fail_instance, teardown, teardown_if_current
from aima_worker.reconciler.adoption import adopt, mark_ready
from aima_worker.reconciler.answers import AnswerChecks
from aima_worker.reconciler.inventory import ConditionTimer
from aima_worker.runtime import Status

NEVER_STARTED_TIMEOUT = timedelta(seconds=4)
"""After which a container that was created and not started is abandoned: a crash between create and start."""

_log = structlog.get_logger()


class InstanceReconciler:
    """For services that no operation runs for. Raises DockerUnavailable, BrokerUnavailable."""

    def __init__(self, host: HostContext, timer: ConditionTimer, answers: AnswerChecks) -> None:
        self._host = host
        self._timer = timer
        self._answers = answers

    def adopt(self, managed: ManagedContainer) -> None:
        """A container without a record."""
        if managed.container.status is not Status.CREATED:
            adopt(self._host, managed, instead_of=None)
        elif self._never_started(managed):
            self._remove_leftover(managed)

    def reconcile(self, instance: Instance, managed: ManagedContainer | None) -> None:
        """An instance that is not ready, or not desired."""
        if instance.desired is Desired.RUNNING and instance.state is InstanceState.STARTING:
            self._resume_start(instance, managed)
        elif managed is None:
            if instance.state not in GONE and self._is_stable(instance, "missing"):
                teardown_if_current(self._host, instance)
        elif instance.desired is Desired.STOPPED and instance.fence >= managed.fence:
            if self._is_stable(instance, "undesired"):
                _log.warning("undesired container stopped", instance=instance.id, fence=instance.fence)
                teardown_if_current(self._host, instance)
        elif managed.running:
            if self._is_stable(instance, "running"):
                adopt(self._host, managed, instead_of=instance)
        elif self._is_stable(instance, "left over"):
            self._remove_leftover(managed)

    def undo_abandoned_change(
        self, service: ServiceId, instance: Instance | None, managed: ManagedContainer | None
    ) -> bool:
        """Brings the previous revision back where a change ended without being made or undone, as after a crash.

        Returns whether it did, or waits until that is certain.
        """
        if candidate := self._host.fences.candidate(service):
            return self._settle(service, instance, managed, candidate)
        if (previous := self._host.fences.previous(service)) is None:
            return False
        if instance is None:
            lost = self._lost(service)
            return not self._is_stable(lost, "change lost") or restore_previous(self._host, lost)
        operation = self._operation_of(instance)
        if instance.desired is Desired.STOPPED or (operation and not operation.state.ended):
            return False
        if instance.operation == previous.instance.operation or instance.state in WAS_READY:
            settle_change(self._host, instance)
            return False
        return restore_previous(self._host, instance)

    def _settle(
        self, service: ServiceId, instance: Instance | None, managed: ManagedContainer | None, candidate: Candidate
    ) -> bool:
        """Makes the change here, or undoes it, as its other starts have ended; returns whether it undoes it."""
        current = instance or self._lost(service)
        outcome = outcome_of(self._host, service, candidate)
        if outcome is Outcome.OPEN or current.desired is Desired.STOPPED:
            return False
        if outcome is Outcome.MADE:
            make_current(self._host, current, candidate.spec)
            if managed:
                restore_resources(self._host, managed, instance)
                self._host.capacity_freed.set()
            return False
        if not self._is_stable(current, "change failed"):
            return True
        _log.warning("change undone", instance=current.id, operation=candidate.operation)
        if restore_previous(self._host, current):
            return True
        undone = current.model_copy(update={"desired": Desired.STOPPED, "failure": ChangeNotMade().failure})
        self._host.services.set_desired(undone)
        return teardown(self._host, undone, grace=GRACE, postponed_on=(EngineRefused,))

    def _lost(self, service: ServiceId) -> Instance:
        """An instance without a record."""
        fence, at = self._host.fences.fence(service), now()
        id, state = service.on(self._host.name), InstanceState.STARTING
        return Instance(id=id, desired=Desired.RUNNING, fence=fence, state=state, since=at)

    def _resume_start(self, instance: Instance, managed: ManagedContainer | None) -> None:
        operation = self._operation_of(instance)
        if operation is not None and not operation.state.ended:
            return  # a worker executes it, or the redelivery loop finds that none does
        if managed is None:
            if self._is_stable(instance, "missing"):
                self._fail_abandoned_start(instance, operation)
        elif managed.container.status is Status.CREATED:
            if self._never_started(managed):
                self._fail_abandoned_start(instance, operation)
        elif not managed.running:
            exit_status = managed.container.exit_code
            fail_instance(self._host, instance, ContainerExited(exit_status=exit_status, service=managed.service))
        elif managed.healthy(self._host) and self._answers.has_answered(instance, managed):
            mark_ready(self._host, instance, managed)
        else:
            self._await_readiness(instance, managed)

    def _await_readiness(self, instance: Instance, managed: ManagedContainer) -> None:
        """Fails the instance of an abandoned start after as many wrong answers, or as long a time, as a start has."""
        waits, answered_wrong = self._timer.held_for((instance.id, "loading")), self._answers.failure_of(managed)
        if waits >= managed.load_timeout or self._answers.is_hopeless(managed):
            waited, url = format_duration(managed.load_timeout), managed.health_url(self._host)
            timed_out = HealthTimeout(waited=waited, url=url, last="no 2xx response")
            fail_instance(self._host, instance, answered_wrong or timed_out)

    def _operation_of(self, instance: Instance) -> Operation | None:
        try:
            return self._host.operations.get(instance.operation) if instance.operation else None
        except UnknownOperation:
            return None

    def _fail_abandoned_start(self, instance: Instance, operation: Operation | None) -> None:
        """The start has ended, or its record is lost, and nothing runs: the instance follows the operation."""
        if operation is None:
            fail_instance(self._host, instance, OperationLost())
        elif operation.state is not State.SUCCEEDED:
            teardown_if_current(self._host, instance.model_copy(update={"failure": operation.failure}))
        elif operation.host == self._host.name:
            fail_instance(self._host, instance, ContainerRemoved(service=instance.id.service, host=self._host.name))
        else:  # another host has executed it
            gone = {"desired": Desired.STOPPED, "state": InstanceState.STOPPED}
            self._host.services.replace_desired(instance.model_copy(update=gone))

    def _remove_leftover(self, managed: ManagedContainer) -> None:
        """A container that does not run, whatever the instance's record says."""
        stopping = {"desired": Desired.STOPPED, "state": InstanceState.STOPPING, "since": now()}
        leftover = Instance(id=managed.id, fence=managed.fence, **stopping)

        def is_still_idle() -> bool:
            found = self._host.runtime.find(managed.container.name)
            abandoned = found is not None and found.status is not Status.RUNNING
            return abandoned and not self._host.claims.is_running(managed.service)

        if teardown(
            self._host, leftover, grace=GRACE, guard=is_still_idle, keep_status=True, postponed_on=(EngineRefused,)
        ):
            _log.warning("leftover container removed", container=managed.container.name)

    def _never_started(self, managed: ManagedContainer) -> bool:
        return self._timer.held_for((managed.id, "created")) >= NEVER_STARTED_TIMEOUT

    def _is_stable(self, instance: Instance, condition: str) -> bool:
        held = self._timer.held_for((instance.id, instance.fence, instance.state, condition))
        return held >= self._host.timings.stable_after
