"""After ready: what is well is left alone, what ails is said to, what has ended is brought back a few times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import structlog

from aima_core.domain.ids import InstanceId, ServiceId
from aima_core.domain.services import Instance, InstanceState
from aima_core.errors import AimaError, BrokerUnavailable, ContainerRemoved, DockerUnavailable
from aima_core.store.operations import now
from aima_worker.context import HostContext
from aima_worker.operations.readiness import last_lines
from aima_worker.operations.teardown import fail_instance, is_current, update_status
from aima_worker.reconciler.health import answers_well, patience_with
from aima_worker.reconciler.inventory import ManagedContainer
from aima_worker.reconciler.restarts import RestartTracker, exit_error, restart

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
