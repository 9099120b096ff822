"""After ready: what is well is left alone, what ails is said to, what has ended is brought back a few times."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from datetime import timedelta

import structlog

from aima_core.domain.ids import InstanceId, ServiceId
from aima_core.domain.services import Instance, InstanceState
from aima_core.errors import AimaError, BrokerUnavailable, ContainerRemoved, DockerUnavailable, EngineDied
from aima_core.store.operations import now
from aima_worker.context import HostContext
from aima_worker.operations.container_spec import container_spec
from aima_worker.operations.model_paths import model_directory
from aima_worker.operations.readiness import answers_well, last_lines, patience_with
from aima_worker.operations.teardown import fail_instance, is_current, update_status
from aima_worker.reconciler.inventory import ManagedContainer

FAILED_CHECKS = 3
"""In a row make a running engine unhealthy."""
_WAS_READY = {InstanceState.READY, InstanceState.UNHEALTHY, InstanceState.RESTARTING, InstanceState.UNKNOWN}

_log = structlog.get_logger()


def was_ready(instance: Instance) -> bool:
    """It had come up, and nothing has ended it for good."""
    return instance.state in _WAS_READY


class HealthSupervisor:
    def __init__(self, host: HostContext) -> None:
        self._host = host
        self._restarts = RestartTracker()
        self._failed_checks: Counter[InstanceId] = Counter()

    def check(self, instance: Instance, known: ManagedContainer | None) -> None:
        """One that shall run, and was ready."""
        if known is None:
            self._is_gone(instance)
        elif known.runs:
            self._check_health(instance, known)
        elif self._restarts.plan(instance.id):
            if instance.state is not InstanceState.RESTARTING:
                died = exit_error(known, restarts=self._restarts.count(instance.id))
                died.remember(last_lines(self._host, known.container.name))
                update_status(self._host, instance, state=InstanceState.RESTARTING, failure=died.failure)
            self._bring_back_when_due(known, is_current=lambda: is_current(self._host, instance))
        else:
            fail_instance(self._host, instance, exit_error(known, restarts=self._restarts.count(instance.id)))

    def check_without_records(self, known: Mapping[ServiceId, ManagedContainer]) -> None:
        """Without Redis, a container that is here is wanted: a stop would have removed it."""
        for each in known.values():
            idle = not self._host.claims.is_running(each.service)
            if not each.runs and idle and self._restarts.plan(each.id):
                self._bring_back_when_due(each, is_current=lambda: True)

    def seconds_to_next_restart(self) -> float:
        """Infinite when none is planned."""
        return self._restarts.seconds_to_next()

    def _is_gone(self, instance: Instance) -> None:
        """Asked for by its name: a listing may have been made before the container was."""
        if self._host.runtime.find(self._host.container_name(instance.id.service)) is None:
            fail_instance(self._host, instance, ContainerRemoved(service=instance.id.service, host=self._host.name))

    def _check_health(self, instance: Instance, known: ManagedContainer) -> None:
        if answers_well(self._host, known):
            self._failed_checks.pop(instance.id, None)
            state = InstanceState.READY
        else:
            self._failed_checks[instance.id] += 1
            state = InstanceState.UNHEALTHY if self._has_failed_for_long(instance, known) else instance.state
        if state is not instance.state:
            update_status(self._host, instance, state=state)

    def _has_failed_for_long(self, instance: Instance, known: ManagedContainer) -> bool:
        """One that is being brought back may load for as long as at its start."""
        if instance.state is InstanceState.RESTARTING:
            return now() - instance.since > patience_with(known)
        return self._failed_checks[instance.id] >= FAILED_CHECKS

    def _bring_back_when_due(self, known: ManagedContainer, *, is_current: Callable[[], bool]) -> None:
        if not self._restarts.is_due(known.id):
            return
        self._restarts.made(known.id)
        _log.warning("engine is brought back", instance=known.id, why=str(exit_error(known, restarts=0)))
        try:
            with self._host.service_lock(known.service):
                if is_current() and not self._host.claims.is_running(known.service):
                    restart(self._host, known)
        except (DockerUnavailable, BrokerUnavailable):
            raise
        except AimaError as failed:
            _log.warning("engine could not be brought back", instance=known.id, why=str(failed))


WAITS = (timedelta(seconds=1), timedelta(seconds=10), timedelta(seconds=30))
"""Before the first, second and third restart."""
WITHIN = timedelta(minutes=10)
"""Restarts older than this are forgiven."""


class RestartTracker:
    """When each instance was or shall be brought back."""

    def __init__(self) -> None:
        self._planned: dict[InstanceId, float] = {}
        self._made: defaultdict[InstanceId, deque[float]] = defaultdict(deque)

    def plan(self, instance: InstanceId) -> bool:
        """Set the time of the next restart, if none is set; False when there have been enough."""
        made, now = self._made[instance], time.monotonic()
        while made and now - made[0] > WITHIN.total_seconds():
            made.popleft()
        if instance not in self._planned:
            if len(made) == len(WAITS):
                return False
            self._planned[instance] = now + WAITS[len(made)].total_seconds()
        return True

    def is_due(self, instance: InstanceId) -> bool:
        return time.monotonic() >= self._planned.get(instance, 0)

    def made(self, instance: InstanceId) -> None:
        self._planned.pop(instance, None)
        self._made[instance].append(time.monotonic())

    def count(self, instance: InstanceId) -> int:
        return len(self._made[instance])

    def seconds_to_next(self) -> float:
        """Until a planned restart is due; infinite when none is planned."""
        return max(0.0, min(self._planned.values(), default=float("inf")) - time.monotonic())


def restart(host: HostContext, known: ManagedContainer) -> None:
    """Run a container again as it was, on its own port. Raises as a start does."""
    spec = container_spec(
        host,
        known.command,
        image=known.image,
        directory=model_directory(host, known.command),
        port=known.port,
        granted=known.granted,
    )
    host.runtime.run(spec)


def exit_error(known: ManagedContainer, *, restarts: int) -> EngineDied:
    container = known.container
    how = "killed for want of memory" if container.oom_killed else f"exit code {container.exit_code}"
    enough = restarts == len(WAITS)
    then = f"It was brought back {restarts} times, and is not again." if enough else "It is brought back."
    return EngineDied(how=how, then=then, service=known.service)
