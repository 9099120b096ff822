"""The reconcile loop: compares every container and record, each few seconds and at once after a container changes.

A container engine that does not answer is a state of the host, never an exit of its containers. Services that an
operation runs for are skipped: its steps look after them.
"""

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from threading import Event as Flag

import structlog

from aima_core.domain.ids import InstanceId, ServiceId
from aima_core.domain.services import GONE, Desired, Instance, InstanceState
from aima_core.errors import AimaError, BrokerUnavailable, CorruptData, DockerUnavailable
from aima_core.system.background import BackgroundLoop
from aima_worker.context import HostContext
from aima_worker.operations.container_spec import ours
from aima_worker.operations.known_specs import drop_removed_specs, restore_specs
from aima_worker.operations.managed import ManagedContainer
from aima_worker.operations.teardown import fail_instance, teardown_if_current
from aima_worker.reconciler.answers import AnswerChecks
from aima_worker.reconciler.inventory import ConditionTimer, Inventory, scan
from aima_worker.reconciler.reconcile import InstanceReconciler
from aima_worker.reconciler.resources import ResourceReconciler
from aima_worker.reconciler.supervision import HealthSupervisor, was_ready
from aima_worker.runtime import ChangeStream

RECONCILE_INTERVAL = timedelta(seconds=5)
SETTLE_DELAY = timedelta(seconds=0.2)
"""After a change: a health check of an engine that is just exiting would hang for seconds."""
RESUBSCRIBE_DELAY = timedelta(seconds=1)
MASS_LOSS = 2
"""So many containers that are missing at once, and are most of all, may be a stale read of a restarting engine."""

_log = structlog.get_logger()


class ReconcileLoop:
    def __init__(self, host: HostContext, *, facts_changed: Callable[[], None] = lambda: None) -> None:
        """`facts_changed`: whether the container engine answers, the unrecognized containers, or names of secrets."""
        self._host = host
        self._facts_changed = facts_changed
        self.unrecognized: tuple[str, ...] = ()
        """The names of containers with our labels that this version cannot parse."""
        self._secrets = host.secrets.names()
        self._timer = ConditionTimer()
        self._answers = AnswerChecks(host, on_result=self.wake)
        self._supervisor = HealthSupervisor(host, self._answers)
        self._instances = InstanceReconciler(host, self._timer, self._answers)
        self._resources = ResourceReconciler(host, self._timer)
        self._resources_due = 0.0
        self._records_enabled = Flag()
        self._changes: ChangeStream | None = None
        self._loop = BackgroundLoop("reconcile", self._run_pass, interval=self._interval, settle_delay=SETTLE_DELAY)
        self._subscription = BackgroundLoop("container changes", self._wake_on_changes, interval=RESUBSCRIBE_DELAY)

    def start(self, *, records: bool = True) -> None:
        """Without `records`, only exited containers are restarted, until `enable_records` is called."""
        if records:
            self._records_enabled.set()
        self._loop.start()
        self._subscription.start()
        self._answers.start()

    def enable_records(self) -> None:
        """The host's records belong to this worker from now on: no other live worker uses its name."""
        self._records_enabled.set()
        self._loop.wake()

    def wake(self) -> None:
        """Runs the next pass now."""
        self._loop.wake()

    def on_redis_reset(self) -> None:
        """Redis has lost its data: records everything again, at once. Raises BrokerUnavailable; it may be repeated."""
        restore_specs(self._host)
        self._resources = ResourceReconciler(self._host, self._timer)
        self._resources_due = 0.0
        self._loop.wake()

    def restarts_of(self, instance: InstanceId) -> int:
        """Those made lately, by which its restart budget is counted."""
        return self._supervisor.restarts.made(instance)

    def stop(self) -> None:
        """Leaves every container as it is."""
        self._subscription.stop()
        self._loop.stop()
        self._answers.stop()
        if self._changes is not None:
            self._changes.close()

    def reconcile_once(self) -> None:
        """One pass over every container and record. Raises DockerUnavailable, BrokerUnavailable."""
        inventory = self._scan()
        self._report_unrecognized(inventory)
        self._report_secrets()
        try:
            records = self._host.services.own_instances(self._host.name)
        except (BrokerUnavailable, CorruptData):
            self._supervisor.check_without_records(inventory.managed)
            raise
        instances = {instance.id.service: instance for instance in records}
        drop_removed_specs(self._host, present=instances.keys())
        self._timer.next_pass()
        doubtful = self._mass_loss(instances, inventory.managed) | self._unread(instances, inventory)
        for service in (instances.keys() | inventory.managed.keys() | self._host.fences.changing()) - doubtful:
            if not self._host.claims.is_running(service):
                self._reconcile_separately(service, instances.get(service), inventory.managed.get(service))
        if time.monotonic() >= self._resources_due:
            settled = self._resources.reconcile(instances, inventory.managed)
            interval = self._host.timings.resources_interval if settled else timedelta()
            self._resources_due = time.monotonic() + interval.total_seconds()

    def _reconcile_separately(
        self, service: ServiceId, instance: Instance | None, managed: ManagedContainer | None
    ) -> None:
        try:
            self._reconcile_service(service, instance, managed)
        except (BrokerUnavailable, DockerUnavailable):
            raise
        except Exception:  # noqa: BLE001 the error boundary of a service: its bad data must not disturb the others
            _log.exception("service not reconciled", service=service)

    def _reconcile_service(
        self, service: ServiceId, instance: Instance | None, managed: ManagedContainer | None
    ) -> None:
        if instance and instance.kept and instance.state is InstanceState.FAILED and managed:
            return  # for debugging, until a stop or a start
        if (instance or not managed) and self._instances.undo_abandoned_change(service, instance, managed):
            return
        if instance is None:
            if managed is None:
                return
            self._instances.adopt(managed)
        elif instance.state is InstanceState.STOPPING:
            teardown_if_current(self._host, instance, grace=timedelta())  # the container engine had not answered
        elif violation := self._violation(instance):
            fail_instance(self._host, instance, violation)
        elif instance.desired is Desired.RUNNING and was_ready(instance) and not _is_stale(instance, managed):
            self._supervisor.check(instance, managed)
        else:
            self._instances.reconcile(instance, managed)

    def _scan(self) -> Inventory:
        inventory = scan(self._host)
        managed = inventory.managed.values()
        self._supervisor.restarts.keep({each.id for each in managed if not each.running})
        self._host.memory_guard.observe(
            {each.id: each.container for each in managed if each.running},
            self._host.runtime.find,
            {each.id: each.command.priority for each in managed},
        )
        return inventory

    def _violation(self, instance: Instance) -> AimaError | None:
        """Why the guard of memory or disk has killed it, until that is recorded."""
        expected = instance.desired is Desired.RUNNING and instance.state not in GONE
        return self._host.violations.of(instance.id) if expected else None

    def _mass_loss(
        self, instances: Mapping[ServiceId, Instance], managed: Mapping[ServiceId, ManagedContainer]
    ) -> set[ServiceId]:
        """The services whose containers are missing, as long as that is not to be believed."""
        up = {service for service, each in instances.items() if each.desired is Desired.RUNNING and was_ready(each)}
        missing = up - managed.keys()
        if len(missing) < MASS_LOSS or 2 * len(missing) <= len(up):
            return set()
        held = self._timer.held_for("mass loss")
        if not held:
            _log.warning("many containers missing at once, checked again", services=sorted(missing))
        return missing if held < self._host.timings.mass_loss_delay else set()

    def _unread(self, instances: Mapping[ServiceId, Instance], inventory: Inventory) -> set[ServiceId]:
        """Services that are desired and have an unrecognized container, which a newer version may have started."""
        desired = {service for service, each in instances.items() if each.desired is Desired.RUNNING}
        return {service for service in desired if self._host.container_name(service) in inventory.unrecognized}

    def _report_secrets(self) -> None:
        if (names := self._host.secrets.names()) != self._secrets:
            self._secrets = names
            self._facts_changed()

    def _report_unrecognized(self, inventory: Inventory) -> None:
        if inventory.unrecognized != self.unrecognized:
            self.unrecognized = inventory.unrecognized
            _log.warning("unrecognized containers changed", names=self.unrecognized)
            self._facts_changed()

    def _interval(self) -> timedelta:
        return min(RECONCILE_INTERVAL, self._supervisor.restarts.time_to_next())

    def _run_pass(self) -> None:
        try:
            if self._records_enabled.is_set():
                self.reconcile_once()
            else:  # another live worker may use this host's name: its records are not judged by the containers here
                self._supervisor.check_without_records(self._scan().managed)
        except DockerUnavailable as away:
            self._set_engine(answers=False, reason=str(away))
        else:
            self._set_engine(answers=True)

    def _set_engine(self, *, answers: bool, reason: str = "") -> None:
        unavailable = self._host.engine_unavailable
        if answers is not unavailable.is_set():
            return
        if answers:
            unavailable.clear()
        else:
            unavailable.set()
        self._resources_due = 0.0
        _log.warning("container engine answers" if answers else "container engine unavailable", reason=reason)
        self._facts_changed()
        self._host.capacity_freed.set()

    def _wake_on_changes(self) -> None:
        """Runs until the runtime's stream ends, which says nothing but that it ended."""
        try:
            self._changes = self._host.runtime.changes(ours(self._host))
            self._answers.container_changed()  # changes before the subscription were not seen
            if self._subscription.stopped:  # race: `stop` closed the stream before this one
                self._changes.close()
            for name in self._changes:
                self._answers.container_changed(name)
                # Starts and stops change containers themselves, and a pass would slow them down.
                if name not in map(self._host.container_name, self._host.claims.running_services()):
                    self._loop.wake()
        except DockerUnavailable:
            self._loop.wake()


def _is_stale(instance: Instance, managed: ManagedContainer | None) -> bool:
    """A stale record: Redis has lost its last writes, as by a failover, and the container has a higher fence."""
    return managed is not None and managed.running and managed.fence > instance.fence
