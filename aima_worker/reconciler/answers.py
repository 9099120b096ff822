"""Asks idle engines again what they had to answer at their start, in a thread of its own: an answer may take a minute.

Only an engine whose own gauges report no running and no waiting request is asked, so that no user waits for a check. A
wrong or missing answer is a failed health check until the engine answers right.
"""

import time
from datetime import timedelta

import structlog

from aima_core.domain.ids import InstanceId
from aima_core.errors import EngineAnswersWrong
from aima_core.system.background import BackgroundLoop
from aima_worker.context import HostContext
from aima_worker.inference.checks import Unanswered, WrongAnswer, checks_of_start, is_idle
from aima_worker.operations.managed import ManagedContainer
from aima_worker.reconciler.inventory import scan

PASS_INTERVAL = timedelta(seconds=15)
CHECK_INTERVAL = timedelta(minutes=5)
"""Between two checks of an engine that answered right."""

_log = structlog.get_logger()


class IdleChecks:
    def __init__(self, host: HostContext) -> None:
        self._host = host
        self._failures: dict[InstanceId, EngineAnswersWrong] = {}
        self._due: dict[InstanceId, float] = {}
        self._loop = BackgroundLoop("idle checks", self.check_once, interval=PASS_INTERVAL)

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop()

    def failure_of(self, instance: InstanceId) -> EngineAnswersWrong | None:
        """Of its last check; None if all answers were right, or none was asked for."""
        return self._failures.get(instance)

    def check_once(self) -> None:
        """One pass over the running engines. Raises DockerUnavailable."""
        running = {each.id: each for each in scan(self._host).managed.values() if each.running}
        for gone in [instance for instance in self._due if instance not in running]:
            self._due.pop(gone)
            self._failures.pop(gone, None)
        now = time.monotonic()
        for managed in running.values():
            if now >= self._due.setdefault(managed.id, now + CHECK_INTERVAL.total_seconds()):
                self.check(managed)

    def check(self, managed: ManagedContainer) -> None:
        """Does nothing to an engine that is busy, or starts."""
        ready, endpoint = managed.command.engine.ready, self._host.endpoint(managed.command, managed.port)
        if ready is None or self._host.claims.is_running(managed.service):
            return
        if not is_idle(self._host.ask, endpoint, ready.busy):
            return
        failure = self._ask(managed, endpoint)
        if failure is None:
            self._failures.pop(managed.id, None)
            self._due[managed.id] = time.monotonic() + CHECK_INTERVAL.total_seconds()
            return
        self._failures[managed.id] = failure
        _log.warning("idle engine answers wrong", instance=managed.id, reason=str(failure))

    def _ask(self, managed: ManagedContainer, endpoint: str) -> EngineAnswersWrong | None:
        for check in checks_of_start(managed.command):
            try:
                check.run(self._host.ask, endpoint)
            except (Unanswered, WrongAnswer) as problem:
                return EngineAnswersWrong(path=check.path, problem=problem, engine=managed.command.engine.name)
        return None
