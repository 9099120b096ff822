"""Failover: reschedules the work of a lost host on others, unless it is bound to that host.

A service is moved by its verified spec only: records of hosts and instances are not signed, so a writer in Redis can
have a service started elsewhere as it was once requested, and not otherwise.

Idempotent: a retry moves nothing twice. The copy on the lost host is no longer desired, or gets a stop with a
higher fence: its worker removes it when the host is back. A host that is gone for good is failed over and forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from aima_api.http.schemas import DEFAULT_GRACE
from aima_api.planning.placement import Placement, PlacementLocks, Target
from aima_api.planning.planner import PlannedStart, StartPlanner
from aima_api.submission.cancellation import Cancellations
from aima_api.submission.submitter import Dispatch, Submitter
from aima_core.domain.ids import HostName, InstanceId
from aima_core.domain.operations import Event, Kind, Operation, Phase, StopService
from aima_core.domain.services import Desired
from aima_core.errors import AimaError, BrokerUnavailable, HostLives, HostLost
from aima_core.queue.notifier import Notifier
from aima_core.store.claims import ClaimStore
from aima_core.store.hosts import HostStore
from aima_core.store.operations import OperationStore, now
from aima_core.store.services import ServiceStore
from aima_core.trust.orders import Mandate
from aima_core.trust.records import SignedService

_MANDATE = Mandate("failover")
_log = structlog.get_logger()


@dataclass(frozen=True)
class Failover:
    """Every call may raise BrokerUnavailable within seconds."""

    planner: StartPlanner
    submitter: Submitter
    operations: OperationStore
    claims: ClaimStore
    services: ServiceStore
    hosts: HostStore
    notifier: Notifier
    cancellations: Cancellations
    locks: PlacementLocks

    def fail_over(self, host: HostName) -> None:
        active = self.operations.list_active()
        for operation in active:
            if operation.host == host:
                self._reassign(operation, host)
            elif operation.host is None and operation.route.host == host and operation.kind is Kind.START:
                self._replace_unclaimed(operation, host, active)
        starting = {operation.service for operation in active if operation.kind is Kind.START}
        for instance in self.services.instances_on(host):
            if instance.desired is Desired.RUNNING and instance.id.service not in starting:
                self._reschedule(instance.id)

    def forget(self, host: HostName) -> None:
        """Removes every record of the host; if it comes back, it joins as a new one. Raises UnknownHost, HostLives."""
        if self.hosts.is_live(host):
            raise HostLives(host=host)
        self.fail_over(host)
        self.hosts.forget(host)
        _log.warning("host forgotten", host=host)
        self.fail_over(host)  # operations whose claim the first pass still found valid
        for operation in self.operations.list_active():
            if operation.route.host == host:
                self._append(operation, Phase.FAILED, failure=HostLost(host=host).failure)

    def _reassign(self, operation: Operation, lost: HostName) -> None:
        """Requeues an operation that the host claimed from a route; fails a bound one."""
        if operation.route.host is not None:
            self._append(operation, Phase.FAILED, failure=HostLost(host=lost).failure)
            return
        if self.claims.unassign(operation, lost):
            _log.warning("operation requeued", operation=operation.id, lost=lost)
            self._append(operation, Phase.QUEUED, message=f"{lost} is lost; another host claims it.")
            self.notifier.notify(operation)

    def _replace_unclaimed(self, start: Operation, lost: HostName, active: Sequence[Operation]) -> None:
        """Replaces a start that was sent to the host for its instance there, and that its worker never claimed."""
        if start.service is None or not self._is_desired(start.service.on(lost)):
            return
        others = (each for each in active if each.kind is Kind.START and each.service == start.service)
        if all(lost in (each.host, each.route.host) for each in others) and self._reschedule(start.service.on(lost)):
            self.cancellations.cancel_now(start.id, Phase.FAILED, HostLost(host=lost).failure)

    def _is_desired(self, id: InstanceId) -> bool:
        instance = self.services.instance(id)
        return instance is not None and instance.desired is Desired.RUNNING

    def _reschedule(self, instance: InstanceId) -> bool:
        """Starts a replacement on another host; False while no other host can run it."""
        try:
            with self.locks.holding([instance.service]):
                start = self._start_elsewhere(self.services.get(instance.service), instance.host)
        except BrokerUnavailable:
            raise
        except AimaError as refusal:
            _log.warning("instance not rescheduled", instance=instance, reason=str(refusal))
            return False
        if start:
            _log.warning("instance rescheduled", instance=instance, operation=start.id)
        return start is not None

    def _start_elsewhere(self, service: SignedService, lost: HostName) -> Operation | None:
        planned, placement = self.planner.plan(service.spec, record=service.record), self.planner.placement()
        targets = self._other_targets(planned, placement)
        if not targets:
            return None
        stop = StopService(service=service.spec.id, grace=DEFAULT_GRACE)
        stops = Dispatch(stop, placement.for_stop([lost]), _MANDATE)
        _, start = self.submitter.submit_all([stops, Dispatch(planned.command, targets[:1], _MANDATE)])
        return start

    def _other_targets(self, planned: PlannedStart, placement: Placement) -> list[Target]:
        """Where a worker would claim it now, hosts that have an instance already excluded."""
        service, requirements = planned.service, planned.requirements
        if planned.bound_hosts:
            return []
        if service.replicas == 1:
            targets = [placement.one_instance(requirements)]
        else:
            current = [each.id.host for each in self.services.instances_of(service.id) if not each.is_down]
            targets = placement.replicas(service.replicas, requirements, current=current)
            targets = [target for target in targets if target.host not in current]
        return [target for target in targets if target.reason is None]

    def _append(self, operation: Operation, phase: Phase, **fields: Any) -> None:
        self.operations.append_event(Event(operation=operation.id, at=now(), phase=phase, **fields))
