"""A worker or a Redis that is killed after any single write of a change leaves the service wholly old or wholly new.

The tests count the writes to Redis, to the container runtime and to the state directory. They kill the worker, or
Redis, after each in turn, start it again, and deliver the operation again, as redelivery does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from threading import current_thread
from typing import Any

import pytest
from lab.commands import SIGNING_KEY, a_start_of, a_stop_of
from lab.desk import desk_of

from aima_core.domain.ids import OperationId, ServiceId
from aima_core.domain.operations import StartService, State
from aima_core.domain.services import InstanceState, Service
from aima_core.errors import BrokerUnavailable
from aima_core.redis.connection import command_link
from aima_core.redis.scripts import Scripts
from aima_core.store.operations import now
from aima_core.trust.keys import SigningKey
from aima_core.trust.records import SignedService
from aima_worker.context import Timings
from aima_worker.execution import fences
from aima_worker.execution.executor import execute
from aima_worker.node.hardware import arch
from aima_worker.reconciler.loop import ReconcileLoop
from aima_worker.runtimes.fake.engine import Behaviour
from aima_worker.runtimes.fake.runtime import FakeRuntime

pytestmark = [
    pytest.mark.redis,
    # A dead worker's claim renewal ends as well: `Killed` leaves its thread.
    pytest.mark.filterwarnings(
        "ignore:(?s)Exception in thread claim renewal.*Killed:pytest.PytestUnhandledThreadExceptionWarning"
    ),
]
MOST_WRITES = 60
STRIDE = 3
"""Where every write is killed in long runs only: those of one host, one by one, are killed in every run."""
CREATED = now()


class Killed(BaseException):
    """No code of the worker runs any more: not even its error boundaries."""


class Killer:
    """Kills the worker after its `at`-th write; every later write of the dead worker raises, too.

    The test's own thread executes operations, and its writes are counted. On a slow machine, the claim renewal writes
    beside it: it would start Redis again while the test goes on without Redis (race).
    """

    def __init__(self) -> None:
        self._thread = current_thread()
        self.at = 0
        self.writes = 0
        self.kills_redis: Callable[[], None] | None = None
        """In place of the worker, which goes on."""

    def after(self, write: Callable[[], Any]) -> Any:
        if self.at and self.writes >= self.at and not self.kills_redis:
            raise Killed
        result = write()
        if current_thread() is not self._thread:
            return result
        self.writes += 1
        if self.at and self.writes == self.at and self.kills_redis:
            self.kills_redis()
        elif self.at and self.writes >= self.at and not self.kills_redis:
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
def points(request: pytest.FixtureRequest, image: str) -> range:
    """The writes to kill after: all in a long run, else every third one, of both images others."""
    first, stride = (1, 1) if request.config.getoption("--long") else (1 + (image == "bad:1"), STRIDE)
    return range(first, MOST_WRITES, stride)


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


def change_with_a_kill(desk: Any, runtime: FakeRuntime, killer: Killer, image: str, at: int) -> int:
    """Changes a service and kills after the `at`-th write; returns the number of writes."""
    loop, service, old_port, new_port = ReconcileLoop(desk.host), ServiceId(f"svc-tiny-m{at}"), 18500, 18501
    desk.run_command(a_revision(service, 1, port=old_port))
    operation = desk.ask(a_revision(service, 2, image=image, port=new_port))

    with suppress(Killed, BrokerUnavailable), killer.armed(at):
        execute(desk.host, operation)
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
    return killer.writes


@pytest.mark.parametrize("image", ["good:1", "bad:1"])
def test_a_change_is_wholly_made_or_wholly_undone_whatever_the_write_after_which_the_worker_is_killed(
    desk, runtime, killer, image
):
    runtime.behaviours["bad:1"] = Behaviour(exit_code=1)

    kills = next(at for at in range(1, MOST_WRITES) if change_with_a_kill(desk, runtime, killer, image, at) < at)

    assert kills > 10


@pytest.mark.parametrize("image", ["good:1", "bad:1"])
def test_a_change_is_wholly_made_or_wholly_undone_whatever_the_write_after_which_redis_is_killed(
    settings, runtime, killer, own_redis, timings, image, points
):
    """A real Redis with its append-only file, killed by SIGKILL and started again; the worker goes on."""
    runtime.behaviours["bad:1"] = Behaviour(exit_code=1)
    link = command_link(own_redis.url)
    killer.kills_redis = lambda: (own_redis.kill(), own_redis.start())

    with closing(link), desk_of(settings, link, runtime, probe=runtime.probe, timings=timings) as desk:
        kills = next(at for at in points if change_with_a_kill(desk, runtime, killer, image, at) < at)

    assert kills > 10


@pytest.mark.parametrize("image", ["good:1", "bad:1"])
def test_a_change_of_two_hosts_is_made_or_undone_on_both_whatever_the_write_after_which_a_worker_is_killed(
    settings, redis, runtime, killer, tmp_path, image, points
):
    host = settings.host.model_copy(update={"name": "beta"})
    elsewhere = FakeRuntime(host="beta", arch=arch(), images=["good:1", "bad:1"])
    elsewhere.behaviours["bad:1"] = Behaviour(exit_code=1)
    own = settings.model_copy(update={"host": host, "state_dir": tmp_path / "beta"})
    timings = Timings(stable_after=timedelta())

    with (
        desk_of(settings, redis, runtime, probe=runtime.probe, timings=timings) as alpha,
        desk_of(own, redis, elsewhere, probe=elsewhere.probe, timings=timings) as beta,
    ):
        kills = next(at for at in points if change_on_both(alpha, beta, killer, image, at) < at)

    assert kills > 10


def change_on_both(alpha: Any, beta: Any, killer: Killer, image: str, at: int) -> int:
    """Alpha becomes ready first; the worker of the host that ends the change is killed; returns its writes."""
    service, loops = ServiceId(f"svc-tiny-m{at}"), [ReconcileLoop(desk.host) for desk in (alpha, beta)]
    for desk in (alpha, beta):
        desk.run_command(a_revision(service, 1, port=18500))
    ids = (OperationId.new(), OperationId.new())
    images = {alpha: "good:1", beta: image}
    commands = {desk: a_revision(service, 2, image=images[desk], port=18501) for desk in (alpha, beta)}
    for id, desk in zip(ids, (alpha, beta), strict=True):
        desk.ask(commands[desk].model_copy(update={"change": ids}), id=id)

    first = at % 2 == 1  # the odd kills hit the host that is ready first, the even ones that which ends the change
    writes = 0
    for id, desk in zip(ids, (alpha, beta), strict=True):
        is_victim = first is (desk is alpha)
        with suppress(Killed), killer.armed((at + 1) // 2 if is_victim else 0):
            execute(desk.host, id)
        writes = 2 * killer.writes if is_victim else writes
    for id, desk, loop in zip(ids, (alpha, beta), loops, strict=True):
        restart_worker(desk, id, loop)
    loops[0].reconcile_once()

    revision, port = (2, 18501) if image == "good:1" else (1, 18500)
    instances = [desk.host.services.instance(service.on(desk.host.name)) for desk in (alpha, beta)]
    assert [(each.revision, each.port) for each in instances] == [(revision, port)] * 2, at
    assert alpha.host.services.get(service).spec.revision == revision, at
    assert [(desk.leases(), desk.host.fences.changing()) for desk in (alpha, beta)] == [([port], set())] * 2, at
    for desk in (alpha, beta):
        desk.run_command(a_stop_of(service))
    return writes
