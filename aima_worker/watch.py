"""Keeps looking at what was brought up, and makes the records say what is: alive, ailing, dead, or gone.

What has ended is brought back a few times. A container engine that does not answer is a state of the host, never the
death of what runs there. Starts and stops under way are not its business: their own steps look after them. What
they could not take down since the engine was away is taken down here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from threading import Event as Flag
from threading import Thread
from typing import Any

import structlog

from aima_core.failures import AimaError, BrokerUnavailable, ContainerRemoved, DockerUnavailable, EngineRefused
from aima_core.ids import InstanceId
from aima_core.operation_store import now
from aima_core.services import Desired, Instance, InstanceState
from aima_worker.bringing_back import Restarts, command_of, death_of, health_url, run_again
from aima_worker.container_spec import COMMAND_LABEL, ours
from aima_worker.host import Host
from aima_worker.readiness import last_lines
from aima_worker.runtime import ChangeStream, Container, Status
from aima_worker.taking_down import state_after, take_down

LOOK_SECONDS = 5.0
"""Between two looks, when no change is reported sooner."""
SETTLE_SECONDS = 0.2
"""After a change: a health check of what is just dying would hang for seconds."""
RECONNECT_SECONDS = 1.0
FAILED_CHECKS = 3
"""In a row make a running engine unhealthy."""
_WATCHED = {InstanceState.READY, InstanceState.UNHEALTHY, InstanceState.RESTARTING}

_log = structlog.get_logger()


class Watch:
    def __init__(self, host: Host, *, engine_answers: Callable[[bool], None]) -> None:
        """`engine_answers` is told whether the container engine does, whenever that changes."""
        self._host = host
        self._tell = engine_answers
        self._answers = True
        self._restarts = Restarts()
        self._failed_checks: Counter[InstanceId] = Counter()
        self._look_now = Flag()
        self._over = Flag()
        self._changes: ChangeStream | None = None

    def begin(self) -> None:
        Thread(target=self._keep_looking, name="watch", daemon=True).start()
        Thread(target=self._listen, name="changes", daemon=True).start()

    def end(self) -> None:
        """Leave everything as it is; the next worker goes on."""
        self._over.set()
        self._look_now.set()
        if self._changes is not None:
            self._changes.close()

    def look(self) -> None:
        """Look at every container and record once. Raises DockerUnavailable, BrokerUnavailable."""
        found = self._host.runtime.containers(ours(self._host))
        containers = {container.name: container for container in found if COMMAND_LABEL in container.labels}
        try:
            instances = self._host.services.instances_on(self._host.name)
        except BrokerUnavailable:
            self._look_without_records(containers)
            raise
        for instance in instances:
            if self._is_mine(instance):
                self._judge(instance, containers.get(self._host.container_name(instance.id.service)))
            elif instance.state is InstanceState.STOPPING:
                self._go_on_taking_down(instance)

    # Judging --------------------------------------------------------------------------------------------------------

    def _is_mine(self, instance: Instance) -> bool:
        wanted = instance.desired is Desired.RUNNING and instance.state in _WATCHED
        return wanted and not self._host.keeper.is_busy_with(instance.id.service)

    def _judge(self, instance: Instance, container: Container | None) -> None:
        if container is None:
            self._give_up(instance, ContainerRemoved(service=instance.id.service, host=self._host.name))
        elif container.status is Status.RUNNING:
            self._check_health(instance, container)
        elif self._restarts.plan(instance.id):
            if instance.state is not InstanceState.RESTARTING:
                died = death_of(container, restarts=self._restarts.count(instance.id))
                died.remember(last_lines(self._host, container.name))
                self._observe(instance, state=InstanceState.RESTARTING, failure=died.failure)
            self._bring_back_when_due(instance.id, container, still_wanted=lambda: self._still_wanted(instance))
        else:
            self._give_up(instance, death_of(container, restarts=self._restarts.count(instance.id)))

    def _check_health(self, instance: Instance, container: Container) -> None:
        if self._answers_well(health_url(self._host, container)):
            self._failed_checks.pop(instance.id, None)
            state = InstanceState.READY
        else:
            self._failed_checks[instance.id] += 1
            state = InstanceState.UNHEALTHY if self._has_failed_for_long(instance, container) else instance.state
        if state is not instance.state:
            self._observe(instance, state=state)

    def _answers_well(self, url: str) -> bool:
        try:
            return 200 <= self._host.probe(url) < 300
        except OSError:
            return False

    def _has_failed_for_long(self, instance: Instance, container: Container) -> bool:
        """One that is being brought back may load for as long as at its start."""
        if instance.state is InstanceState.RESTARTING:
            check = command_of(container).engine.health_check
            return now() - instance.since > max(check.timeout, check.at_most or timedelta())
        return self._failed_checks[instance.id] >= FAILED_CHECKS

    # Bringing back --------------------------------------------------------------------------------------------------

    def _look_without_records(self, containers: dict[str, Container]) -> None:
        """Without Redis, a container that is here is wanted: a stop would have removed it."""
        for container in containers.values():
            service = command_of(container).service
            idle = not self._host.keeper.is_busy_with(service)
            if container.status is not Status.RUNNING and idle and self._restarts.plan(service.on(self._host.name)):
                self._bring_back_when_due(service.on(self._host.name), container, still_wanted=lambda: True)

    def _bring_back_when_due(self, id: InstanceId, container: Container, *, still_wanted: Callable[[], bool]) -> None:
        if not self._restarts.is_due(id):
            return
        self._restarts.made(id)
        _log.warning("engine is brought back", instance=id, why=str(death_of(container, restarts=0)))
        try:
            with self._host.exclusively(id.service):
                if still_wanted() and not self._host.keeper.is_busy_with(id.service):
                    run_again(self._host, container)
        except (DockerUnavailable, BrokerUnavailable):
            raise
        except AimaError as failed:
            _log.warning("engine could not be brought back", instance=id, why=str(failed))

    def _still_wanted(self, instance: Instance) -> bool:
        """Asked again where nobody else can act: a stop may have come since the look began."""
        told = self._host.services.instance(instance.id)
        return told is not None and told.desired is Desired.RUNNING and told.fence == instance.fence

    def _give_up(self, instance: Instance, failed: AimaError) -> None:
        name = self._host.container_name(instance.id.service)
        with self._host.exclusively(instance.id.service):
            if not self._still_wanted(instance):
                return
            failed.remember(last_lines(self._host, name))
            _log.warning("engine failed", instance=instance.id, why=str(failed))
            take_down(self._host, instance.id.service, grace=timedelta())
            self._host.give_back(instance.id.service, fence=instance.fence)
            self._observe(instance, state=InstanceState.FAILED, failure=failed.failure, port=None, endpoint=None)

    def _go_on_taking_down(self, instance: Instance) -> None:
        """The container engine went away before it was done, or refused."""
        with self._host.exclusively(instance.id.service):
            busy = self._host.keeper.is_busy_with(instance.id.service)
            if busy or self._host.services.instance(instance.id) != instance:
                return
            try:
                take_down(self._host, instance.id.service, grace=timedelta())
            except EngineRefused as refused:
                _log.warning("container cannot be taken down", instance=instance.id, why=str(refused))
                return
            self._host.give_back(instance.id.service, fence=instance.fence)
            self._observe(instance, state=state_after(instance.failure), port=None, endpoint=None)

    def _observe(self, instance: Instance, **changes: Any) -> None:
        self._host.services.observe(instance.model_copy(update={**changes, "since": now()}))

    # Looking on -----------------------------------------------------------------------------------------------------

    def _keep_looking(self) -> None:
        while not self._over.is_set():
            self._look_now.clear()
            try:
                self.look()
                self._engine_is(answering=True)
            except DockerUnavailable as away:
                self._engine_is(answering=False, why=str(away))
            except BrokerUnavailable as away:
                _log.warning("watching without records", reason=str(away))
            except Exception:  # noqa: BLE001 the boundary of the thread: a look that fails must not be the last
                _log.exception("a look failed")
            if self._look_now.wait(min(LOOK_SECONDS, self._restarts.seconds_to_next())):
                self._over.wait(SETTLE_SECONDS)

    def _is_under_way(self, container: str) -> bool:
        """Starts and stops make changes of their own, and need the machine for themselves just then."""
        return container in map(self._host.container_name, self._host.keeper.services_under_way())

    def _engine_is(self, *, answering: bool, why: str = "") -> None:
        if answering is not self._answers:
            self._answers = answering
            _log.warning("the container engine answers again" if answering else "the container engine is away", why=why)
            self._tell(answering)

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
