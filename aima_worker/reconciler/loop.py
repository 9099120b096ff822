"""Looks again and again at every container and record, soon after something has changed, and has them judged.

It owns when to look and what a look may be believed; what then is done is the judges': `aftercare` for what was ready,
`reconcile` for what records and containers disagree about, `accounts` for what they hold. A container engine that
does not answer is a state of the host, never the death of what runs there. Starts and stops under way are not its
business: their own steps look after them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from threading import Event as Flag
from threading import Thread

import structlog

from aima_core.domain.ids import ServiceId
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.errors import BrokerUnavailable, DockerUnavailable
from aima_worker.context import HostContext
from aima_worker.operations.container_spec import ours
from aima_worker.reconciler.inventory import ConditionTimer, Inventory, ManagedContainer, scan
from aima_worker.reconciler.reconcile import InstanceReconciler
from aima_worker.reconciler.resources import ResourceReconciler
from aima_worker.reconciler.supervision import HealthSupervisor, was_ready
from aima_worker.runtime import ChangeStream

LOOK_SECONDS = 5.0
"""Between two looks, when no change is reported sooner."""
RESOURCES_SECONDS = 15.0
"""Between two looks at what is held; those that give cause are followed by another at once."""
SETTLE_SECONDS = 0.2
"""After a change: a health check of what is just dying would hang for seconds."""
RECONNECT_SECONDS = 1.0
SEVERAL = 2
"""So many that are missing at once, and are most of all, are looked for again before they count as removed."""
LOOK_AGAIN_SECONDS = 3.0

_log = structlog.get_logger()


class ReconcileLoop:
    def __init__(
        self,
        host: HostContext,
        *,
        engine_answers: Callable[[bool], None],
        unrecognized_changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`engine_answers` is told whether the container engine does, whenever that changes."""
        self._host = host
        self._tell = engine_answers
        self._unrecognized_changed = unrecognized_changed
        self.unrecognized: tuple[str, ...] = ()
        """The containers that carry our labels and cannot be made out."""
        self._answers = True
        self._timer = ConditionTimer()
        self._supervisor = HealthSupervisor(host)
        self._instances = InstanceReconciler(host, self._timer)
        self._resources = ResourceReconciler(host, self._timer)
        self._resources_due = 0.0
        self._records_enabled = Flag()
        self._look_now = Flag()
        self._over = Flag()
        self._changes: ChangeStream | None = None

    def start(self, *, records: bool = True) -> None:
        """Without `records`, only bring back what has ended, until `go_by_records` is called."""
        if records:
            self._records_enabled.set()
        Thread(target=self._keep_looking, name="watch", daemon=True).start()
        Thread(target=self._listen, name="changes", daemon=True).start()

    def enable_records(self) -> None:
        """The host's records are this worker's from now on, and no other's."""
        self._records_enabled.set()
        self._look_now.set()

    def on_redis_reset(self) -> None:
        """Redis has lost its data: put back what is known here, now."""
        self._resources.reset()
        self._resources_due = 0.0
        self._look_now.set()

    def stop(self) -> None:
        """Leave everything as it is; the next worker goes on."""
        self._over.set()
        self._look_now.set()
        if self._changes is not None:
            self._changes.close()

    def reconcile_once(self) -> None:
        """Look at every container and record once. Raises DockerUnavailable, BrokerUnavailable."""
        listing = scan(self._host)
        self._report(listing)
        try:
            told = self._host.services.instances_on(self._host.name)
        except BrokerUnavailable:
            self._supervisor.check_without_records(listing.managed)
            raise
        instances = {instance.id.service: instance for instance in told}
        self._timer.next_pass()
        vanished = self._vanished(instances, listing.managed)
        for service in (instances.keys() | listing.managed.keys()) - vanished:
            if not self._host.claims.is_running(service):
                self._look_at(instances.get(service), listing.managed.get(service))
        if time.monotonic() >= self._resources_due:
            in_order = self._resources.reconcile(instances, listing.managed)
            self._resources_due = time.monotonic() + (RESOURCES_SECONDS if in_order else 0)

    def _look_at(self, instance: Instance | None, known: ManagedContainer | None) -> None:
        if instance is None:
            assert known is not None
            self._instances.adopt(known)
        elif instance.state is InstanceState.STOPPING:
            self._instances.resume_teardown(instance)
        elif instance.desired is Desired.RUNNING and was_ready(instance):
            self._supervisor.check(instance, known)
        else:
            self._instances.reconcile(instance, known)

    def _vanished(
        self, instances: Mapping[ServiceId, Instance], known: Mapping[ServiceId, ManagedContainer]
    ) -> set[ServiceId]:
        """Those whose containers are missing and that are not to be judged by it yet."""
        up = {service for service, each in instances.items() if each.desired is Desired.RUNNING and was_ready(each)}
        missing = up - known.keys()
        if len(missing) < SEVERAL or 2 * len(missing) <= len(up):
            return set()
        seconds = self._timer.held_for("vanished at once")
        if seconds == 0:
            _log.warning("many containers vanished at once", services=sorted(missing), what="looks again")
        return missing if seconds < LOOK_AGAIN_SECONDS else set()

    def _report(self, listing: Inventory) -> None:
        if listing.unrecognized != self.unrecognized:
            self.unrecognized = listing.unrecognized
            _log.warning("containers with this installation's labels that cannot be made out", names=self.unrecognized)
            self._unrecognized_changed()

    # Looking on -----------------------------------------------------------------------------------------------------

    def _keep_looking(self) -> None:
        while not self._over.is_set():
            self._look_now.clear()
            try:
                self._look_as_far_as_may_be()
                self._engine_is(answering=True)
            except DockerUnavailable as away:
                self._engine_is(answering=False, why=str(away))
            except BrokerUnavailable as away:
                _log.warning("watching without records", reason=str(away))
            except Exception:  # noqa: BLE001 the boundary of the thread: a look that fails must not be the last
                _log.exception("a look failed")
            if self._look_now.wait(min(LOOK_SECONDS, self._supervisor.seconds_to_next_restart())):
                self._over.wait(SETTLE_SECONDS)

    def _look_as_far_as_may_be(self) -> None:
        """Another worker that lives may go by this host's name: its records are not to be judged by what is here."""
        if self._records_enabled.is_set():
            self.reconcile_once()
        else:
            self._supervisor.check_without_records(scan(self._host).managed)

    def _is_under_way(self, container: str) -> bool:
        """Starts and stops make changes of their own, and need the machine for themselves just then."""
        return container in map(self._host.container_name, self._host.claims.running_services())

    def _engine_is(self, *, answering: bool, why: str = "") -> None:
        if answering is not self._answers:
            self._answers = answering
            if answering:
                self._host.engine_unavailable.clear()
            else:
                self._host.engine_unavailable.set()
            self._resources_due = 0.0
            _log.warning("the container engine answers again" if answering else "the container engine is away", why=why)
            self._tell(answering)
            self._host.capacity_freed.set()

    def _listen(self) -> None:
        """Look as soon as something changes. The end of the stream says only that it ended: go on listening."""
        while not self._over.is_set():
            try:
                self._changes = self._host.runtime.changes(ours(self._host))
                for name in self._changes:
                    if not self._is_under_way(name):
                        self._look_now.set()
            except DockerUnavailable:
                self._look_now.set()
            self._over.wait(RECONNECT_SECONDS)
