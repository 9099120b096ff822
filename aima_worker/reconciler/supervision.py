"""Supervises ready instances: marks them unhealthy after 3 failed checks and restarts exited containers.

A container is restarted at most 3 times in 10 minutes; then the instance fails, with the exit and the last log lines.
A start has a higher fence, and with it a restart budget of its own.
Without Redis, every container that is here counts as desired, since a stop would have removed it.
"""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta

import structlog

from aima_core.domain.ids import InstanceId, ServiceId
from aima_core.domain.services import Instance, InstanceState
from aima_core.errors import AimaError, BrokerUnavailable, ContainerRemoved, DockerUnavailable, EngineDied
from aima_core.store.operations import now
from aima_worker.context import HostContext
from aima_worker.operations.managed import ManagedContainer, spec_as_it_was
from aima_worker.operations.previous import WAS_READY
from aima_worker.operations.readiness import last_lines
from aima_worker.operations.teardown import fail_instance, is_current, update_status
from aima_worker.reconciler.answers import AnswerChecks

FAILED_CHECKS = 3
"""In a row, after which a running engine is unhealthy."""
RESTART_WINDOW = timedelta(minutes=10)
"""Restarts that are older no longer count."""

_log = structlog.get_logger()


def was_ready(instance: Instance) -> bool:
    return instance.state in WAS_READY


class HealthSupervisor:
    def __init__(self, host: HostContext, answers: AnswerChecks) -> None:
        self._host = host
        self._answers = answers
        self.restarts = RestartTracker(host.timings.restart_delays)
        self._failed_checks: Counter[InstanceId] = Counter()

    def check(self, instance: Instance, managed: ManagedContainer | None) -> None:
        """An instance that is desired and was ready."""
        if managed is None:
            # Asked by name: the inventory may have been listed before the container was created (stale read).
            if self._host.runtime.find(self._host.container_name(instance.id.service)) is None:
                fail_instance(self._host, instance, ContainerRemoved(service=instance.id.service, host=self._host.name))
        elif managed.running:
            self._check_health(instance, managed)
        elif self.restarts.plan(instance.id, fence=instance.fence):
            restarting = self._mark_restarting(instance, managed)
            self._restart_when_due(managed, guard=lambda: is_current(self._host, restarting))
        else:
            fail_instance(self._host, instance, self._exit_of(managed))

    def check_without_records(self, managed: Mapping[ServiceId, ManagedContainer]) -> None:
        """While Redis is unavailable, or before this worker may use the host's records."""
        for each in managed.values():
            idle = not (self._host.claims.is_running(each.service) or self._host.violations.of(each.id))
            if not each.running and idle and self.restarts.plan(each.id, fence=each.fence):
                self._restart_when_due(each, guard=lambda: True)

    def _check_health(self, instance: Instance, managed: ManagedContainer) -> None:
        state, failure = instance.state, instance.failure
        problem: AimaError | None = managed.check_health(self._host)
        answered = problem is None and self._answers.has_answered(instance, managed)
        must_answer = problem is None and not answered
        problem = problem or self._answers.failure_of(managed)
        self._failed_checks[instance.id] += problem is not None
        if answered and problem is None:
            self._failed_checks.pop(instance.id, None)
            state, failure = InstanceState.READY, None
        elif problem is not None and self._is_unhealthy(instance, managed):
            if state is not InstanceState.UNHEALTHY or failure is None or failure.code != problem.code:
                state, failure = InstanceState.UNHEALTHY, problem.failure
        elif must_answer and state is InstanceState.READY:
            # Its container was restarted unseen, as by hand or while Redis was unavailable.
            state = InstanceState.RESTARTING
        if (state, failure) != (instance.state, instance.failure):
            update_status(self._host, instance, state=state, failure=failure)

    def _is_unhealthy(self, instance: Instance, managed: ManagedContainer) -> bool:
        """A restarted engine has the time to load that a start has, and as many wrong answers."""
        if self._answers.is_hopeless(managed):
            return True
        if instance.state is InstanceState.RESTARTING:
            return now() - instance.since > managed.load_timeout
        return self._failed_checks[instance.id] >= FAILED_CHECKS

    def _mark_restarting(self, instance: Instance, managed: ManagedContainer) -> Instance:
        if instance.state is InstanceState.RESTARTING:
            return instance
        exited = self._exit_of(managed)
        exited.remember(last_lines(self._host, managed.container.name))
        update_status(self._host, instance, state=InstanceState.RESTARTING, failure=exited.failure)
        return instance.model_copy(update={"state": InstanceState.RESTARTING})

    def _restart_when_due(self, managed: ManagedContainer, *, guard: Callable[[], bool]) -> None:
        if not self.restarts.is_due(managed.id):
            return
        reason = str(self._exit_of(managed))
        self.restarts.record(managed.id)
        try:
            using = self._host.using_model(managed.command.fetches, f"the restart of {managed.id}")
            with self._host.service_lock(managed.service), using:
                if guard() and not self._host.claims.is_running(managed.service):
                    self._host.runtime.run(spec_as_it_was(self._host, managed))
                    _log.warning("engine restarted", instance=managed.id, reason=reason)
        except (DockerUnavailable, BrokerUnavailable):
            raise
        except AimaError as failed:
            _log.warning("engine restart failed", instance=managed.id, reason=str(failed))

    def _exit_of(self, managed: ManagedContainer) -> EngineDied:
        container, budget = managed.container, len(self._host.timings.restart_delays)
        how = "out of memory" if container.oom_killed else f"exit code {container.exit_code}"
        exhausted = self.restarts.exhausted(managed.id)
        then = f"It was restarted {budget} times, and is not again." if exhausted else "It is restarted."
        return EngineDied(how=how, then=then, service=managed.service)


class RestartTracker:
    """Plans restarts with the delays given, at most as many in RESTART_WINDOW and since the instance's last start."""

    def __init__(self, delays: Sequence[timedelta], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._delays = delays
        self._clock = clock
        self._fences: dict[InstanceId, int] = {}
        self._planned: dict[InstanceId, float] = {}
        self._made: defaultdict[InstanceId, deque[float]] = defaultdict(deque)

    def plan(self, instance: InstanceId, *, fence: int) -> bool:
        """Plans the next restart unless one is planned; False if the budget is exhausted.

        A higher fence resets the budget. A lower one is the container's own, which a start may have adopted.
        """
        if fence > self._fences.setdefault(instance, fence):
            self._fences[instance] = fence
            self._made[instance].clear()
            self._planned.pop(instance, None)
        made, now = self._made[instance], self._clock()
        while made and now - made[0] > RESTART_WINDOW.total_seconds():
            made.popleft()
        if instance not in self._planned:
            if self.exhausted(instance):
                return False
            self._planned[instance] = now + self._delays[len(made)].total_seconds()
        return True

    def keep(self, exited: Collection[InstanceId]) -> None:
        """Drops the planned restarts of all other instances, such as of one that was stopped concurrently."""
        self._planned = {instance: due for instance, due in self._planned.items() if instance in exited}

    def is_due(self, instance: InstanceId) -> bool:
        return self._clock() >= self._planned.get(instance, 0)

    def record(self, instance: InstanceId) -> None:
        """The planned restart is made."""
        self._planned.pop(instance, None)
        self._made[instance].append(self._clock())

    def made(self, instance: InstanceId) -> int:
        """Restarts within RESTART_WINDOW, and since the instance's last start."""
        earliest = self._clock() - RESTART_WINDOW.total_seconds()
        return sum(at >= earliest for at in self._made.get(instance, ()))

    def exhausted(self, instance: InstanceId) -> bool:
        return len(self._made[instance]) >= len(self._delays)

    def time_to_next(self) -> timedelta:
        """timedelta.max if none is planned."""
        if not self._planned:
            return timedelta.max
        return timedelta(seconds=max(0.0, min(self._planned.values()) - self._clock()))
