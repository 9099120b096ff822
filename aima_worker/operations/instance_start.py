"""An instance while it starts: its status follows the steps, and a failed start is rolled back.

The rollback leaves nothing but the last log lines in the failure. A start that fails before it touched a container (a
wrong path, a leased port) leaves the previous container running.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import structlog

from aima_core.domain.operations import Phase, StartService, State
from aima_core.domain.resources import Allocation, host_memory_of
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.errors import AimaError, BrokerUnavailable, Cancelled, DockerUnavailable, EngineRefused, Superseded
from aima_core.store.operations import now
from aima_worker.attempt import Attempt, WorkerShutdown
from aima_worker.context import HostContext
from aima_worker.operations.container_spec import ORDER_LABEL, PORT_LABEL
from aima_worker.operations.managed import revision_of
from aima_worker.operations.model_paths import ModelDirectory
from aima_worker.operations.previous import (
    Candidate,
    Outcome,
    make_current,
    outcome_of,
    propose,
    remember_previous,
    restore_previous,
    settle_change,
)
from aima_worker.operations.pull import HeldImage
from aima_worker.operations.readiness import last_lines
from aima_worker.operations.teardown import GRACE, remove_container, teardown, update_status
from aima_worker.runtime import Container, ContainerSpec

REACHED_BY = ("port", "endpoint", "model", "serves", "names", "serving")
"""Fields of an instance by which gateways reach its engine."""

_log = structlog.get_logger()


@contextmanager
def starting_instance(host: HostContext, attempt: Attempt, command: StartService) -> Iterator[InstanceStart]:
    """Raises Superseded if the desired state has changed since this start was requested."""
    starting = InstanceStart(host, attempt, command)
    if not starting.set_desired():
        host.release_allocation(command.service, fence=attempt.operation.fence)
        raise Superseded(by=f"a later operation on {starting.id}")
    try:
        yield starting
    except WorkerShutdown:
        starting.hand_over()
        raise
    except BrokerUnavailable:
        raise  # no rollback: the next attempt adopts the container
    except AimaError as failed:
        starting.roll_back(failed)
        raise


class InstanceStart:
    def __init__(self, host: HostContext, attempt: Attempt, command: StartService) -> None:
        operation = attempt.operation
        self.id = command.service.on(host.name)
        self._host = host
        self._attempt = attempt
        self._command = command
        self._container: Container | None = None
        self._previous_serves = False
        self._instance = Instance(
            id=self.id,
            desired=Desired.RUNNING,
            fence=operation.fence,
            state=InstanceState.STARTING,
            engine=command.engine.name,
            operation=operation.id,
            revision=revision_of(command),
            runs=command.digest,
            model=command.model_id,
            serves=command.serves,
            names=command.names,
            since=now(),
        )

    def set_desired(self) -> bool:
        """Sets the desired state to running; False if a higher fence has set it since.

        What runs is remembered on disk first, so that a crash in between loses nothing, and serves on until it is
        replaced. Raises FenceNotRecorded.
        """
        before = self._attempt.retry_until_redis_answers(lambda: self._host.services.instance(self.id))
        remember_previous(self._host, before, operation=self._attempt.operation.id)
        self._previous_serves = before is not None and before.serving
        starting = self._instance
        if before is not None and before.serving:
            starting = starting.model_copy(update={name: getattr(before, name) for name in REACHED_BY})
        taken = self._attempt.retry_until_redis_answers(lambda: self._host.services.replace_desired(starting))
        return taken is not None

    def run(self, spec: ContainerSpec) -> None:
        """Raises Cancelled if superseded, besides what the runtime raises."""
        self._attempt.raise_if_cancelled()
        with self._host.service_lock(self.id.service):
            self._raise_if_superseded()
            self._withdraw_previous()
            self._container = self._host.runtime.run(spec)

    def loading_message(self, directory: ModelDirectory | None) -> str:
        assert self._container is not None
        source = f" from {directory}" if directory else ""
        return f"Container {self._container.name} started (id: {self._container.id[:12]}). Loading the model{source}."

    def remove_container(self) -> None:
        """Raises Cancelled if superseded."""
        with self._host.service_lock(self.id.service):
            self._raise_if_superseded()
            self._withdraw_previous()
            remove_container(self._host, self.id.service, grace=GRACE)

    def inspect(self) -> Container | None:
        return self._host.runtime.find(self._host.container_name(self.id.service))

    def kill(self) -> None:
        """Without grace, and without Redis. Raises what cancelled the attempt."""
        with self._host.service_lock(self.id.service):
            self._attempt.raise_if_cancelled()
            remove_container(self._host, self.id.service, grace=timedelta())

    def mark_ready(self, *, image: HeldImage, port: int, endpoint: str) -> None:
        """Raises Cancelled if it was stopped concurrently."""
        address, fence = self._host.address_of(self._command), self._instance.fence
        self._host.addresses.put(self.id, address, port, fence=fence)  # before gateways may read that it is ready
        ready = {"state": InstanceState.READY, "port": port, "endpoint": endpoint}
        ready |= {"image": image.reference or None, "digest": image.digest, "image_id": image.id}
        ready |= self._host.reached_by()
        if not self._attempt.retry_until_redis_answers(lambda: update_status(self._host, self._instance, **ready)):
            raise Cancelled
        self._instance = self._instance.model_copy(update={"port": port})
        self._attempt.retry_until_redis_answers(self._make_current_unless_others_start)

    def finish(self, endpoint: str) -> None:
        """Records the success. The last start of a change makes its spec the current one; else a reconciler does."""
        self._attempt.finish(Phase.READY, endpoint=endpoint)
        candidate = self._host.fences.candidate(self.id.service)
        if candidate and outcome_of(self._host, self.id.service, candidate) is Outcome.MADE:
            self._make_current()

    def _make_current_unless_others_start(self) -> None:
        """While others start, what ran before stays remembered and reserved. Raises FenceNotRecorded."""
        command, own = self._command, self._attempt.operation.id
        others = [start for start in command.change if start != own]
        if command.spec and any(state is not State.SUCCEEDED for state in self._host.operations.states(others)):
            candidate = Candidate(operation=own, change=command.change, spec=command.spec)
            propose(self._host, self.id.service, candidate)
        else:
            self._make_current()

    def _make_current(self) -> None:
        self._host.allocations.keep(self._host.name, self.id.service, self._allocation())
        self._host.capacity_freed.set()
        make_current(self._host, self._instance, self._command.spec)

    def _allocation(self) -> Allocation:
        memory = host_memory_of(self._command.needs, unified=self._host.capacity().unified)
        return Allocation(memory=memory, gpus=self._attempt.claimed.gpus, loading=False, fence=self._instance.fence)

    def hand_over(self) -> None:
        """At worker shutdown: if any host of its route may take the operation, nothing here may look desired."""
        if self._attempt.operation.route.host is not None or not self._attempt.is_portable:
            return
        if restore_previous(self._host, self._instance):
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
            return  # superseded by a later start, which owns container and lease by now
        with suppress(AimaError):
            if self._container is not None or self._host.fences.previous(self.id.service) is None:
                failed.remember(last_lines(self._host, self._host.container_name(self.id.service)))
        if latest.desired is Desired.RUNNING:
            if self._command.keep_failed and not isinstance(failed, Cancelled) and self._keep_for_debugging(failed):
                return
            if self._restore_previous(failed):
                return
        if isinstance(failed, Cancelled):  # else failover would start it elsewhere if this host were lost
            self._host.services.set_desired(self._instance.model_copy(update={"desired": Desired.STOPPED}))
        failing = self._instance.model_copy(update={"failure": failed.failure})
        teardown(self._host, failing, grace=GRACE, postponed_on=(DockerUnavailable, EngineRefused))

    def _keep_for_debugging(self, failed: AimaError) -> bool:
        """Leaves the failed candidate's container, with its port and allocation, until a stop or another start."""
        container = self.inspect()
        if container is None or container.labels.get(ORDER_LABEL) != self._attempt.claimed.order.text:
            return False
        failed.conclude(f"Its container {container.name} is kept for debugging.")
        settle_change(self._host, self._instance.model_copy(update={"port": int(container.labels[PORT_LABEL])}))
        kept = {"state": InstanceState.FAILED, "failure": failed.failure, "kept": True}
        update_status(self._host, self._instance, **kept)
        return True

    def _restore_previous(self, failed: AimaError) -> bool:
        try:
            return restore_previous(self._host, self._instance, why=failed)
        except DockerUnavailable as unavailable:
            _log.warning("previous revision not restored yet", instance=self.id, reason=str(unavailable))
            return self._host.fences.previous(self.id.service) is not None  # the reconciler does, once it answers

    def _withdraw_previous(self) -> None:
        """Before its container is replaced: gateways send it no further requests."""
        if self._previous_serves:
            self._attempt.retry_until_redis_answers(lambda: update_status(self._host, self._instance))
            self._previous_serves = False

    def _raise_if_superseded(self) -> None:
        if self._attempt.retry_until_redis_answers(self._latest).fence > self._instance.fence:
            raise Cancelled

    def _latest(self) -> Instance:
        return self._host.services.instance(self.id) or self._instance
