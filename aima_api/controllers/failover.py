"""What becomes of the work of a host that is lost: elsewhere, where it was not bound to that host; else it has failed.

The copy on the lost host is told to stop: it hears of it when the host is back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog

from aima_api.http.schemas import DEFAULT_GRACE
from aima_api.planning.placement import Placement, PlacementLocks, Sought, Target
from aima_api.planning.planner import StartPlanner
from aima_api.submission.cancellation import Cancellations
from aima_api.submission.submitter import Submitter
from aima_core.domain.ids import HostName, InstanceId, Route, ServiceId
from aima_core.domain.operations import Event, Kind, Operation, Phase, StopService
from aima_core.domain.services import Desired, Service
from aima_core.errors import AimaError, BrokerUnavailable, HostLost
from aima_core.queue.notifier import Notifier
from aima_core.store.claims import ClaimStore
from aima_core.store.operations import OperationStore, now
from aima_core.store.services import ServiceStore

_log = structlog.get_logger()


class Failover:
    """Every call may raise BrokerUnavailable within seconds."""

    def __init__(
        self,
        planner: StartPlanner,
        submit: Submitter,
        *,
        operations: OperationStore,
        claims: ClaimStore,
        services: ServiceStore,
        notifier: Notifier,
        cancellations: Cancellations,
        locks: PlacementLocks,
    ) -> None:
        self._planner = planner
        self._submit = submit
        self._operations = operations
        self._claims = claims
        self._services = services
        self._notifier = notifier
        self._cancellations = cancellations
        self._locks = locks

    def fail_over(self, host: HostName) -> None:
        """Can be called again and again: what has been moved is not moved twice."""
        unended = self._operations.list_active()
        for operation in unended:
            if operation.host == host:
                self._go_on_elsewhere(operation, host)
            elif operation.host is None and operation.route.host == host and operation.kind is Kind.START:
                self._begin_in_its_place(operation, host, unended)
        starting = {operation.service for operation in unended if operation.kind is Kind.START}
        for instance in self._services.instances_on(host):
            if instance.desired is Desired.RUNNING and instance.id.service not in starting:
                self._move(instance.id)

    def _go_on_elsewhere(self, operation: Operation, lost: HostName) -> None:
        if operation.route.host is not None:
            self._tell(operation, Phase.FAILED, failure=HostLost(host=lost).failure)
            return
        if operation.service and self._is_wanted(operation.service.on(lost)):
            self._have_stopped(operation.service, lost)
        if self._claims.unassign(operation.id, lost):
            _log.warning("an operation goes on elsewhere", operation=operation.id, lost=lost)
            self._tell(operation, Phase.QUEUED, message=f"{lost} went away; another host takes it on.")
            self._notifier.notify(operation)

    def _begin_in_its_place(self, start: Operation, lost: HostName, unended: Sequence[Operation]) -> None:
        """One that was sent to the host since its service was there, and that the host never took on."""
        if start.service is None or not self._is_wanted(start.service.on(lost)):
            return
        others = (each for each in unended if each.kind is Kind.START and each.service == start.service)
        if all(lost in (each.host, each.route.host) for each in others) and self._move(start.service.on(lost)):
            self._cancellations.cancel_now(start.id, Phase.FAILED, HostLost(host=lost).failure)

    def _is_wanted(self, instance: InstanceId) -> bool:
        known = self._services.instance(instance)
        return known is not None and known.desired is Desired.RUNNING

    def _have_stopped(self, service: ServiceId, lost: HostName) -> None:
        """Once the host is back; what is asked of the service from now on counts as asked for later."""
        stop = StopService(service=service, grace=DEFAULT_GRACE)
        self._submit.submit(
            stop, [Target(Route.to_host(lost), reason=f"{lost} is not live; it stops when it is back.")]
        )

    def _move(self, instance: InstanceId) -> list[Operation]:
        """What begins elsewhere; nothing while nobody can."""
        try:
            with self._locks.holding([instance.service]):
                started = self._begin_elsewhere(self._services.get(instance.service), instance.host)
        except BrokerUnavailable:
            raise
        except AimaError as failed:
            _log.warning("cannot be moved", instance=instance, why=str(failed))
            return []
        for operation in started:
            _log.warning("moved elsewhere", instance=instance, operation=operation.id)
        return started

    def _begin_elsewhere(self, service: Service, lost: HostName) -> list[Operation]:
        """Nothing while nobody can. Raises what the catalog or the hosts have against it."""
        command, placement = self._planner.command(service), self._planner.placement()
        places = self._other_places(service, self._planner.sought(service, command), placement)
        if not places:
            return []
        stop = StopService(service=service.id, grace=DEFAULT_GRACE)
        _, start = self._submit.submit_all([(stop, placement.by_name([lost])), (command, places[:1])])
        return [start]

    def _other_places(self, service: Service, sought: Sought, placement: Placement) -> list[Target]:
        """Where a host would take it on now, and has none of it yet."""
        if service.hosts or (service.route and service.route.host):
            return []
        if service.replicas == 1:
            places = [placement.one(sought)]
        else:
            known = [each.id.host for each in self._services.instances_of(service.id) if not each.is_down]
            places = placement.replicas(service.replicas, sought, known=known)
            places = [place for place in places if place.host not in known]
        return [place for place in places if place.reason is None]

    def _tell(self, operation: Operation, phase: Phase, **more: Any) -> None:
        self._operations.append_event(Event(operation=operation.id, at=now(), phase=phase, **more))
