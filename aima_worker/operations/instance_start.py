"""An instance while it is brought up: its record follows, and what fails leaves nothing behind but its last lines.

A start that fails before it has touched anything (a wrong path, a port that is taken) leaves alone what ran before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from aima_core.domain.operations import StartService
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.errors import AimaError, BrokerUnavailable, Cancelled, DockerUnavailable, EngineRefused
from aima_core.store.operations import now
from aima_worker.context import HostContext
from aima_worker.execution.attempt import Attempt
from aima_worker.execution.cancellation import WorkerShutdown
from aima_worker.operations.images import HeldImage
from aima_worker.operations.readiness import last_lines
from aima_worker.operations.teardown import remove_container, state_after
from aima_worker.runtime import Container, ContainerSpec

GRACE = timedelta(seconds=5)
"""What is taken down after a failure, or to be replaced, gets this long to end by itself."""


@contextmanager
def starting_instance(host: HostContext, attempt: Attempt, command: StartService) -> Iterator[InstanceStart]:
    """Raises Cancelled when the instance was stopped, or started otherwise, after this was asked for."""
    starting = InstanceStart(host, attempt, command)
    if not starting.set_desired():
        host.allocations.release(host.name, command.service, fence=attempt.operation.fence)
        raise Cancelled
    try:
        yield starting
    except WorkerShutdown:
        starting.hand_over()
        raise
    except BrokerUnavailable:
        raise  # not this start's failure: who takes it on again finds what was made
    except AimaError as failed:
        starting.roll_back(failed)
        raise


class InstanceStart:
    def __init__(self, host: HostContext, attempt: Attempt, command: StartService) -> None:
        operation = attempt.operation
        self.id = command.service.on(host.name)
        self._host = host
        self._attempt = attempt
        self._name = host.container_name(command.service)
        self._before: Instance | None = None
        self._touched = False
        self._container: Container | None = None
        self._instance = Instance(
            id=self.id,
            desired=Desired.RUNNING,
            fence=operation.fence,
            state=InstanceState.STARTING,
            engine=command.engine.name,
            operation=operation.id,
            since=now(),
        )

    def set_desired(self) -> bool:
        """Say that the instance shall run; False when something else was asked for since."""
        taken = self._attempt.retry_until_redis_answers(lambda: self._host.services.replace_desired(self._instance))
        self._before = taken.before if taken else None
        return taken is not None

    def run(self, spec: ContainerSpec) -> None:
        """Raises Cancelled when something else has been asked for since, besides what the runtime raises."""
        self._attempt.raise_if_cancelled()
        with self._host.service_lock(self.id.service):
            self._check_current()
            self._touched = True
            self._container = self._host.runtime.run(spec)

    def loading_message(self, directory: str | None) -> str:
        assert self._container is not None
        source = f" from {directory}" if directory else ""
        return f"Container {self._name} started (id: {self._container.id[:12]}). Loading the model{source}."

    def remove_container(self) -> None:
        """Raises Cancelled when something else has been asked for since."""
        with self._host.service_lock(self.id.service):
            self._check_current()
            self._touched = True
            remove_container(self._host, self.id.service, grace=GRACE)

    def kill(self) -> None:
        """At once, also while Redis is away. Raises what interrupts the work."""
        with self._host.service_lock(self.id.service):
            self._attempt.raise_if_cancelled()
            remove_container(self._host, self.id.service, grace=timedelta(0))

    def mark_ready(self, *, image: HeldImage, port: int, endpoint: str) -> None:
        """Raises Cancelled if it has been stopped in the last moment."""
        ready = {"state": InstanceState.READY, "port": port, "endpoint": endpoint}
        ready |= {"image": image.reference or None, "digest": image.digest}
        if not self._attempt.retry_until_redis_answers(lambda: self._observe(**ready)):
            raise Cancelled
        self._host.allocations.mark_loaded(self._host.name, self.id.service)
        self._host.capacity_freed.set()

    def hand_over(self) -> None:
        """Where any host of its class may go on with it, let nothing here look as though it were still to run."""
        if self._attempt.operation.route.host is not None or not self._attempt.is_portable:
            return
        if self._ran_before():
            self._restore_previous()
            return
        stopped = self._instance.model_copy(
            update={"desired": Desired.STOPPED, "state": InstanceState.STOPPED, "since": now()}
        )
        if self._host.services.set_desired(stopped):
            self._host.services.update_status(stopped)
        self._host.release_resources(self.id.service, fence=stopped.fence)

    def roll_back(self, failed: AimaError) -> None:
        latest = self._latest()
        if latest.fence > self._instance.fence and latest.desired is Desired.RUNNING:
            return  # a later start has overtaken this one: container and lease are its own by now
        if not self._touched and self._ran_before():
            self._restore_previous()
            return
        failed.remember(self._last_log_lines())
        if isinstance(
            failed, Cancelled
        ):  # else what nobody wants any more would be begun elsewhere once its host is lost
            self._host.services.set_desired(self._instance.model_copy(update={"desired": Desired.STOPPED}))
        try:
            remove_container(self._host, self.id.service, grace=GRACE)
        except (DockerUnavailable, EngineRefused):
            # It may still run, and hold its port. The watch goes on with it once the engine is back.
            self._observe(state=InstanceState.STOPPING, failure=failed.failure)
            return
        self._host.release_resources(self.id.service, fence=self._instance.fence)
        self._observe(state=state_after(failed.failure), failure=failed.failure)

    def _check_current(self) -> None:
        if self._attempt.retry_until_redis_answers(self._latest).fence > self._instance.fence:
            raise Cancelled

    def _latest(self) -> Instance:
        """What was last asked for."""
        return self._host.services.instance(self.id) or self._instance

    def _ran_before(self) -> bool:
        """Something ran that another operation made: an earlier attempt at this one counts as its own."""
        before = self._before
        return (
            before is not None and before.state is InstanceState.READY and before.operation != self._instance.operation
        )

    def _restore_previous(self) -> None:
        """Put the record and the lease back as they were; a higher fence had a say, and took it back."""
        assert self._before is not None
        fence = self._instance.fence
        self._host.services.update_status(self._before.model_copy(update={"fence": fence}))
        self._host.allocations.mark_loaded(self._host.name, self.id.service)
        if self._before.port is not None:
            self._host.ports.release(self.id, fence=fence)
            self._host.ports.persist(self.id, self._before.port, fence=fence)

    def _last_log_lines(self) -> tuple[str, ...]:
        try:
            return last_lines(self._host, self._name)
        except AimaError:
            return ()

    def _observe(self, **changes: Any) -> bool:
        return self._host.services.update_status(self._instance.model_copy(update={**changes, "since": now()}))
