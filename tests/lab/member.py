"""A host that has joined a fleet, with a fake container engine; its heartbeats and passes are run by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from lab.attacker import a_host
from lab.commands import a_start_of, a_stop_of
from lab.desk import Desk

from aima_core.domain.ids import ServiceId
from aima_core.queue.transport import DroppedMessages
from aima_core.redis.interface import TextRedis
from aima_core.trust.records import SignedService
from aima_worker.context import Timings
from aima_worker.node.facts import host_facts
from aima_worker.node.hardware import arch
from aima_worker.node.heartbeat import Heartbeat
from aima_worker.reconciler.loop import ReconcileLoop
from aima_worker.runtimes.fake.runtime import FakeRuntime

AT_ONCE = Timings(restart_delays=(timedelta(),) * 3, resources_interval=timedelta())


class Member:
    def __init__(self, desk: Desk, runtime: FakeRuntime) -> None:
        self.desk = desk
        self.runtime = runtime
        self._loop = ReconcileLoop(desk.host)
        host = desk.host
        self._heartbeat = Heartbeat(
            host,
            lambda: host_facts(host.settings, runtime),
            identity=host.name,
            session="the test's",
            dropped=DroppedMessages(),
            redis_is_new=self._loop.on_redis_reset,
            displaced=lambda _: None,
        )

    def beat(self) -> None:
        """One heartbeat; it joins first if Redis does not know the host."""
        self._heartbeat.send()

    def reconcile(self) -> None:
        self._loop.reconcile_once()

    @property
    def unrecognized(self) -> tuple[str, ...]:
        """The containers that the last pass has not recognized."""
        return self._loop.unrecognized

    def run(self, spec: SignedService) -> None:
        """Starts a service whose spec is stored."""
        start = a_start_of(spec.spec.id).model_copy(update={"spec": spec.record})
        assert self.desk.run_command(start).code is None

    def run_and_stop(self, spec: SignedService) -> None:
        """Stores a spec, and starts and stops the service."""
        self.desk.host.services.put(spec)
        self.run(spec)
        assert self.desk.run_command(a_stop_of(spec.spec.id)).code is None

    def stored(self, id: str) -> SignedService:
        return self.desk.host.services.get(ServiceId(id))


@contextmanager
def a_member(
    redis: TextRedis, directory: Path, name: str, *, runtime: FakeRuntime | None = None, **trust: Any
) -> Iterator[Member]:
    """`trust` are the host's keys in place of the tests' own; its state directory is below `directory`."""
    runtime = runtime or FakeRuntime(host=name, arch=arch(), images=["tiny:1"])
    with a_host(redis, directory, name, runtime=runtime, timings=AT_ONCE, **trust) as desk:
        yield Member(desk, runtime)
