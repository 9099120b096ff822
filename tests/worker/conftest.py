"""A host with a fake runtime and a real Redis, and a way to have it carry a command out."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from lab.parts import eventually
from lab.wishes import SIGNING_KEY, put_down

from aima_core.ids import OperationId
from aima_core.operations import Command, Event, Operation, Phase
from aima_core.services import Instance
from aima_core.settings import DockerSettings, HostSettings, Settings
from aima_core.text_redis import TextRedis
from aima_worker import images
from aima_worker.app import make_host
from aima_worker.conduct import conduct
from aima_worker.facts import arch
from aima_worker.host import Host
from aima_worker.runtimes.fake import FakeRuntime


@dataclass(frozen=True)
class Outcome:
    operation: Operation
    events: list[Event]
    instance: Instance | None

    @property
    def phases(self) -> list[Phase]:
        """Those it went through, each once."""
        return list(dict.fromkeys(event.phase for event in self.events))

    @property
    def code(self) -> str | None:
        return self.operation.failure and self.operation.failure.code


class Desk:
    """A host and what it is asked to do."""

    def __init__(self, host: Host, pool: ThreadPoolExecutor) -> None:
        self.host = host
        self._pool = pool

    def ask(self, command: Command, **how: Any) -> OperationId:
        return put_down(self.host.operations, command, host=self.host.name, **how).id

    def carry_out(self, command: Command, **how: Any) -> Outcome:
        """Have the command carried out to its end."""
        return self.finish(self.ask(command, **how))

    def finish(self, id: OperationId) -> Outcome:
        conduct(self.host, id)
        return self.outcome(id)

    def begin(self, command: Command) -> tuple[OperationId, Future[Outcome]]:
        """Have it carried out meanwhile."""
        id = self.ask(command)
        return id, self._pool.submit(self.finish, id)

    def outcome(self, id: OperationId) -> Outcome:
        operation = self.host.operations.get(id)
        where = operation.service and operation.service.on(self.host.name)
        instance = self.host.services.instance(where) if where else None
        return Outcome(operation, self.host.operations.events(id), instance)

    def until_phase(self, id: OperationId, phase: Phase) -> None:
        assert eventually(lambda: self.host.operations.get(id).phase is phase)

    def leases(self) -> list[int]:
        return [lease.port for lease in self.host.ports.all()]

    def containers(self) -> list[str]:
        return [container.name for container in self.host.runtime.containers({})]


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime(host="alpha", arch=arch(), images=["tiny:1"])


@pytest.fixture
def model_root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    root.mkdir()
    return root


@pytest.fixture
def settings(tmp_path: Path, model_root: Path) -> Settings:
    return Settings(
        state_dir=tmp_path / "state",
        installation="test",
        signing_key=SIGNING_KEY,
        host=HostSettings.model_validate({"name": "alpha", "ports": "18500-18599", "model_roots": [model_root]}),
        docker=DockerSettings(stall=timedelta(seconds=5)),
    )


@pytest.fixture
def desk(settings: Settings, redis: TextRedis, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(images, "WAITS_BEFORE_ANOTHER_TRY", (timedelta(milliseconds=1), timedelta(milliseconds=1)))
    host = make_host(settings, redis, runtime, probe=runtime.probe)
    host.ports.open(settings.host.ports)
    with ThreadPoolExecutor(8) as pool:
        yield Desk(host, pool)
        host.keeper.hand_on_all()
