"""A worker that is killed after any single write of a change leaves the service wholly old or wholly new.

The test counts the writes to Redis, to the container runtime and to the state directory. It kills the worker after
each in turn, starts it again, and delivers the operation again, as redelivery does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from lab.commands import SIGNING_KEY, a_start_of, a_stop_of

from aima_core.domain.ids import OperationId, ServiceId
from aima_core.domain.operations import StartService, State
from aima_core.domain.services import InstanceState, Service
from aima_core.redis.scripts import Scripts
from aima_core.store.operations import now
from aima_core.trust.keys import SigningKey
from aima_core.trust.records import SignedService
from aima_worker.execution import fences
from aima_worker.execution.executor import execute
from aima_worker.reconciler.loop import ReconcileLoop
from aima_worker.runtimes.fake.engine import Behaviour
from aima_worker.runtimes.fake.runtime import FakeRuntime

pytestmark = pytest.mark.redis
MOST_WRITES = 60
CREATED = now()


class Killed(BaseException):
    """No code of the worker runs any more: not even its error boundaries."""


class Killer:
    """Kills the worker after its `at`-th write; every later write of the dead worker raises, too."""

    def __init__(self) -> None:
        self.at = 0
        self.writes = 0

    def after(self, write: Callable[[], Any]) -> Any:
        if self.at and self.writes >= self.at:
            raise Killed
        result = write()
        self.writes += 1
        if self.at and self.writes >= self.at:
            raise Killed
        return result

    def counts(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        """Counts the calls of this function as writes."""
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **more: self.after(lambda: original(*args, **more)))

    @contextmanager
    def armed(self, at: int) -> Iterator[None]:
        self.at, self.writes = at, 0
        try:
            yield
        finally:
            self.at = 0


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch) -> Killer:
    killer = Killer()
    written = {Scripts: ("__call__", "each"), FakeRuntime: ("run", "remove"), fences: ("write_atomically",)}
    for owner, names in written.items():
        for name in names:
            killer.counts(monkeypatch, owner, name)
    return killer


def a_revision(service: ServiceId, number: int, **engine: Any) -> StartService:
    spec = Service(id=service, created_at=CREATED, revision=number)
    port = engine.pop("port")
    record = SignedService.of(spec, SigningKey(SIGNING_KEY)).record
    return a_start_of(service, **engine).model_copy(update={"spec": record, "port": port})


def restart_worker(desk: Any, operation: OperationId, loop: ReconcileLoop) -> None:
    host = desk.host
    host.fences._known = dict(host.fences._read())
    host.claim_store.release_all_of_host(host.name)
    execute(host, operation)
    loop.reconcile_once()


@pytest.mark.parametrize("image", ["good:1", "bad:1"])
def test_a_change_is_wholly_made_or_wholly_undone_whatever_the_write_after_which_the_worker_is_killed(
    desk, runtime, killer, image
):
    runtime.behaviours["bad:1"] = Behaviour(exit_code=1)
    loop = ReconcileLoop(desk.host)
    kills = 0
    for at in range(1, MOST_WRITES):
        service, old_port, new_port = ServiceId(f"svc-tiny-m{at}"), 18500, 18501
        desk.run_command(a_revision(service, 1, port=old_port))
        operation = desk.ask(a_revision(service, 2, image=image, port=new_port))

        try:
            with killer.armed(at):
                execute(desk.host, operation)
        except Killed:
            kills += 1
        restart_worker(desk, operation, loop)

        revision, port = (2, new_port) if image == "good:1" else (1, old_port)
        found = desk.host.services.instance(service.on(desk.host.name))
        assert runtime.probe(f"http://127.0.0.1:{port}/health") == 200, at
        assert (found.revision, found.port) == (revision, port), at
        assert found.state in (InstanceState.READY, InstanceState.RESTARTING), at
        assert desk.host.services.get(service).spec.revision == revision, at
        assert (desk.leases(), desk.host.fences.previous(service)) == ([port], None), at
        assert desk.host.operations.get(operation).state is (State.SUCCEEDED if revision == 2 else State.FAILED), at
        desk.run_command(a_stop_of(service))
        if kills < at:
            break
    assert kills > 10
