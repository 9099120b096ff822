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
from aima_worker.context import Host
from aima_worker.execution.attempt import Undertaking
from aima_worker.execution.cancellation import HandedOn
from aima_worker.operations.images import HeldImage
from aima_worker.operations.readiness import last_lines
from aima_worker.operations.taking_down import state_after, take_down
from aima_worker.runtime import ContainerSpec

GRACE = timedelta(seconds=5)
"""What is taken down after a failure, or to be replaced, gets this long to end by itself."""


@contextmanager
def bringing_up(host: Host, undertaking: Undertaking, command: StartService) -> Iterator[Attempt]:
    """Raises Cancelled when the instance was stopped, or started otherwise, after this was asked for."""
    attempt = Attempt(host, undertaking, command)
    if not attempt.is_wanted():
        host.room_store.give_back(host.name, command.service, fence=undertaking.operation.fence)
        raise Cancelled
    try:
        yield attempt
    except HandedOn:
        attempt.leave_to_others()
        raise
    except BrokerUnavailable:
        raise  # not this start's failure: who takes it on again finds what was made
    except AimaError as failed:
        attempt.give_up(failed)
        raise


class Attempt:
    def __init__(self, host: Host, undertaking: Undertaking, command: StartService) -> None:
        operation = undertaking.operation
        self.id = command.service.on(host.name)
        self._host = host
        self._undertaking = undertaking
        self._name = host.container_name(command.service)
        self._before: Instance | None = None
        self._touched = False
        self._instance = Instance(
            id=self.id,
            desired=Desired.RUNNING,
            fence=operation.fence,
            state=InstanceState.STARTING,
            engine=command.engine.name,
            operation=operation.id,
            since=now(),
        )

    def is_wanted(self) -> bool:
        """Say that the instance shall run; False when something else was asked for since."""
        taken = self._undertaking.insist(lambda: self._host.services.take(self._instance))
        self._before = taken.before if taken else None
        return taken is not None

    def run(self, spec: ContainerSpec) -> None:
        """Raises Cancelled when something else has been asked for since, besides what the runtime raises."""
        self._undertaking.go_on()
        with self._host.exclusively(self.id.service):
            self._check_wanted()
            self._touched = True
            self._host.runtime.run(spec)

    def take_down(self) -> None:
        """Raises Cancelled when something else has been asked for since."""
        with self._host.exclusively(self.id.service):
            self._check_wanted()
            self._touched = True
            take_down(self._host, self.id.service, grace=GRACE)

    def kill(self) -> None:
        """At once, also while Redis is away. Raises what interrupts the work."""
        with self._host.exclusively(self.id.service):
            self._undertaking.go_on()
            take_down(self._host, self.id.service, grace=timedelta(0))

    def is_ready(self, *, image: HeldImage, port: int, endpoint: str) -> None:
        """Raises Cancelled if it has been stopped in the last moment."""
        ready = {"state": InstanceState.READY, "port": port, "endpoint": endpoint}
        ready |= {"image": image.reference or None, "digest": image.digest}
        if not self._undertaking.insist(lambda: self._observe(**ready)):
            raise Cancelled
        self._host.room_store.loaded(self._host.name, self.id.service)
        self._host.freed.set()

    def leave_to_others(self) -> None:
        """Where any host of its class may go on with it, let nothing here look as though it were still to run."""
        if self._undertaking.operation.route.host is not None or not self._undertaking.made_nothing:
            return
        if self._ran_before():
            self._leave_alone()
            return
        stopped = self._instance.model_copy(
            update={"desired": Desired.STOPPED, "state": InstanceState.STOPPED, "since": now()}
        )
        if self._host.services.intend(stopped):
            self._host.services.observe(stopped)
        self._host.give_back(self.id.service, fence=stopped.fence)

    def give_up(self, failed: AimaError) -> None:
        latest = self._latest()
        if latest.fence > self._instance.fence and latest.desired is Desired.RUNNING:
            return  # a later start has overtaken this one: container and lease are its own by now
        if not self._touched and self._ran_before():
            self._leave_alone()
            return
        failed.remember(self._last_words())
        if isinstance(
            failed, Cancelled
        ):  # else what nobody wants any more would be begun elsewhere once its host is lost
            self._host.services.intend(self._instance.model_copy(update={"desired": Desired.STOPPED}))
        try:
            take_down(self._host, self.id.service, grace=GRACE)
        except (DockerUnavailable, EngineRefused):
            # It may still run, and hold its port. The watch goes on with it once the engine is back.
            self._observe(state=InstanceState.STOPPING, failure=failed.failure)
            return
        self._host.give_back(self.id.service, fence=self._instance.fence)
        self._observe(state=state_after(failed.failure), failure=failed.failure)

    def _check_wanted(self) -> None:
        if self._undertaking.insist(self._latest).fence > self._instance.fence:
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

    def _leave_alone(self) -> None:
        """Put the record and the lease back as they were; a higher fence had a say, and took it back."""
        assert self._before is not None
        fence = self._instance.fence
        self._host.services.observe(self._before.model_copy(update={"fence": fence}))
        self._host.room_store.loaded(self._host.name, self.id.service)
        if self._before.port is not None:
            self._host.ports.release(self.id, fence=fence)
            self._host.ports.keep(self.id, self._before.port, fence=fence)

    def _last_words(self) -> tuple[str, ...]:
        try:
            return last_lines(self._host, self._name)
        except AimaError:
            return ()

    def _observe(self, **changes: Any) -> bool:
        return self._host.services.observe(self._instance.model_copy(update={**changes, "since": now()}))
