"""A host in this process that executes operations: the worker's steps on any runtime, with Redis, without a queue."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from lab.commands import enqueue_signed
from lab.parts import eventually

from aima_core.domain.ids import OperationId
from aima_core.domain.operations import Command, Event, Operation, Phase
from aima_core.domain.services import Instance
from aima_core.redis.interface import TextRedis
from aima_core.settings import Settings
from aima_worker.app import make_host
from aima_worker.context import HostContext, Probe
from aima_worker.execution.executor import execute
from aima_worker.operations.readiness import http_status
from aima_worker.runtime import ContainerRuntime

REACHED_WITHIN = timedelta(seconds=60)
"""A phase that comes after the start of a container."""


@dataclass(frozen=True)
class Outcome:
    operation: Operation
    events: list[Event]
    instance: Instance | None

    @property
    def phases(self) -> list[Phase]:
        """The phases after `queued`, each once."""
        return list(dict.fromkeys(event.phase for event in self.events[1:]))

    @property
    def code(self) -> str | None:
        return self.operation.failure and self.operation.failure.code


class Desk:
    """A host and the operations that it executes."""

    def __init__(self, host: HostContext, pool: ThreadPoolExecutor) -> None:
        self.host = host
        self._pool = pool

    def ask(self, command: Command, **how: Any) -> OperationId:
        return enqueue_signed(self.host.operations, command, host=self.host.name, **how).id

    def run_command(self, command: Command, **how: Any) -> Outcome:
        """Enqueue the command and execute it to its end."""
        return self.finish(self.ask(command, **how))

    def finish(self, id: OperationId) -> Outcome:
        execute(self.host, id)
        return self.outcome(id)

    def begin(self, command: Command, **how: Any) -> tuple[OperationId, Future[Outcome]]:
        """Enqueue the command and execute it in a thread."""
        id = self.ask(command, **how)
        return id, self._pool.submit(self.finish, id)

    def outcome(self, id: OperationId) -> Outcome:
        operation = self.host.operations.get(id)
        where = operation.service and operation.service.on(self.host.name)
        instance = self.host.services.instance(where) if where else None
        return Outcome(operation, self.host.operations.events(id), instance)

    def until_phase(self, id: OperationId, phase: Phase) -> None:
        assert eventually(lambda: self.host.operations.get(id).phase is phase, within=REACHED_WITHIN)

    def leases(self) -> list[int]:
        return [lease.port for lease in self.host.ports.all()]

    def containers(self) -> list[str]:
        return [container.name for container in self.host.runtime.containers({})]


@contextmanager
def host_of(settings: Settings, redis: TextRedis, runtime: ContainerRuntime, **more: Any) -> Iterator[HostContext]:
    """A host with these settings and its port range; running operations are released at the end."""
    host = make_host(settings, redis, runtime, **more)
    try:
        host.ports.set_range(settings.host.ports)
        yield host
    finally:
        host.claims.stop()
        assert eventually(_fetches_have_ended, within=timedelta(seconds=60))


def _fetches_have_ended() -> bool:
    """Their last statement takes a connection to Redis."""
    return not any(thread.name.startswith(("fetch ", "share")) for thread in threading.enumerate())


@contextmanager
def desk_of(
    settings: Settings, redis: TextRedis, runtime: ContainerRuntime, *, probe: Probe = http_status, **more: Any
) -> Iterator[Desk]:
    """A desk with such a host."""
    with (
        ThreadPoolExecutor(8, thread_name_prefix="desk") as pool,
        host_of(settings, redis, runtime, probe=probe, **more) as host,
    ):
        yield Desk(host, pool)
