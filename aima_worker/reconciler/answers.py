"""Asks running engines what they had to answer at their start: restarted ones before they are ready, idle ones again.

An instance becomes ready only after its process has answered right, also after a crash restart or an abandoned start.
A process whose instance was ready when this worker first saw it serves on, and is asked soon.
Only an engine whose own gauges report no running and no waiting request is asked again, so that no user waits for a
check. A wrong or missing answer is a failed health check until the engine answers right.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Lock, Thread
from typing import NamedTuple

import structlog

from aima_core.domain.ids import InstanceId
from aima_core.domain.services import Instance, InstanceState
from aima_core.errors import EngineAnswersWrong
from aima_core.store.operations import now
from aima_core.system.background import BackgroundLoop
from aima_worker.context import HostContext
from aima_worker.inference.checks import Unanswered, WrongAnswer, checks_of_start, is_idle
from aima_worker.operations.managed import ManagedContainer
from aima_worker.operations.readiness import WRONG_ANSWERS
from aima_worker.reconciler.inventory import scan

PASS_INTERVAL = timedelta(seconds=15)
"""Also between two checks of a restarted engine after WRONG_ANSWERS in a row."""
CHECK_INTERVAL = timedelta(minutes=5)
"""Between two checks of an engine that answered right."""

_log = structlog.get_logger()


class _Process(NamedTuple):
    """A container may be restarted by hand with the same id."""

    container: str
    started_at: datetime | None


@dataclass(eq=False)
class _Answers:
    """Of one process."""

    process: _Process
    doubtful: bool = field(init=False, default=False)
    """The container has changed since: another process may run in it."""
    due: float
    """The time of the next check while it is idle."""
    right: bool = False
    """It has answered right once, or its instance was ready before this worker saw it."""
    failure: EngineAnswersWrong | None = None
    """Of the last check."""
    wrong: int = 0
    """Wrong answers in a row."""
    not_before: float = 0.0
    """The time of the next check while it has not answered right."""
    asking: Lock = field(default_factory=Lock)


class AnswerChecks:
    def __init__(self, host: HostContext, *, on_result: Callable[[], None] = lambda: None) -> None:
        """`on_result` is called after a restarted engine has answered right, or wrong for the last time."""
        self._host = host
        self._on_result = on_result
        self._began = now()
        self._lock = Lock()
        self._answers: dict[InstanceId, _Answers] = {}
        self._loop = BackgroundLoop("answer checks", self.check_once, interval=PASS_INTERVAL)

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop()

    def container_changed(self, name: str | None = None) -> None:
        """Another process may run in it by now; without a name, in any container."""
        with self._lock:
            for id, answers in self._answers.items():
                answers.doubtful |= name in (None, self._host.container_name(id.service))

    def has_answered(self, instance: Instance, managed: ManagedContainer) -> bool:
        """Whether the healthy engine may be ready; else it is asked in a thread of its own, which may take a minute.

        Raises DockerUnavailable.
        """
        if managed.command.engine.ready is None:
            return True
        answers = self._of(managed)
        if not answers.right:
            answers.right = self._was_ready(instance, answers.process) or not checks_of_start(managed.command)
        if not answers.right and time.monotonic() >= answers.not_before and not answers.asking.locked():
            Thread(target=self._ask, args=(managed, answers), name=f"answers of {managed.id}", daemon=True).start()
        return answers.right

    def failure_of(self, managed: ManagedContainer) -> EngineAnswersWrong | None:
        """Of the last check of the process; None if all answers were right, or none was asked for."""
        answers = self._answers.get(managed.id)
        return answers.failure if answers and answers.process.container == managed.container.id else None

    def is_hopeless(self, managed: ManagedContainer) -> bool:
        """Whether it has answered wrong so often that waiting longer is in vain."""
        answers = self._answers.get(managed.id)
        return self.failure_of(managed) is not None and answers is not None and answers.wrong >= WRONG_ANSWERS

    def check_once(self) -> None:
        """One pass over the running engines. Raises DockerUnavailable."""
        running = {each.id: each for each in scan(self._host).managed.values() if each.running}
        with self._lock:
            self._answers = {id: answers for id, answers in self._answers.items() if id in running}
        for managed in running.values():
            if managed.command.engine.ready and time.monotonic() >= self._of(managed).due:
                self.check(managed)

    def check(self, managed: ManagedContainer) -> None:
        """Does nothing to an engine that is busy, or starts. Raises DockerUnavailable."""
        ready, endpoint = managed.command.engine.ready, self._host.endpoint(managed.command, managed.port)
        if ready is None or self._host.claims.is_running(managed.service):
            return
        if not is_idle(self._host.ask, endpoint, ready.busy):
            return
        self._ask(managed, self._of(managed))

    def _of(self, managed: ManagedContainer) -> _Answers:
        """Those of the process that runs now. A list of containers lacks the time of its start."""
        with self._lock:
            known = self._answers.get(managed.id)
            if known and known.process.container == managed.container.id and not known.doubtful:
                return known
            found = self._host.runtime.find(managed.container.name) or managed.container
            process = _Process(found.id, found.started_at)
            if known and known.process == process:
                known.doubtful = False
            else:
                starts_after = found.started_at is not None and found.started_at >= self._began
                due = time.monotonic() + CHECK_INTERVAL.total_seconds() if starts_after else 0.0
                known = self._answers[managed.id] = _Answers(process, due)
            return known

    def _was_ready(self, instance: Instance, process: _Process) -> bool:
        """A process that is younger than the record of its instance's readiness replaces the one that was ready."""
        began = process.started_at if self._host.runtime.is_local else None  # another machine has another clock
        is_older = began is None or began <= instance.since
        return is_older and instance.state in (InstanceState.READY, InstanceState.UNKNOWN)

    def _ask(self, managed: ManagedContainer, answers: _Answers) -> None:
        if not answers.asking.acquire(blocking=False):
            return
        try:
            self._judge(managed, answers)
        finally:
            answers.asking.release()

    def _judge(self, managed: ManagedContainer, answers: _Answers) -> None:
        was_right, endpoint = answers.right, self._host.endpoint(managed.command, managed.port)
        for check in checks_of_start(managed.command):
            try:
                check.run(self._host.ask, endpoint)
            except (Unanswered, WrongAnswer) as problem:
                answers.wrong = answers.wrong + 1 if isinstance(problem, WrongAnswer) else 0
                answers.failure = EngineAnswersWrong(
                    path=check.path, problem=problem, engine=managed.command.engine.name
                )
                _log.warning("engine answers wrong", instance=managed.id, reason=str(answers.failure))
                break
        else:
            answers.wrong, answers.failure, answers.right = 0, None, True
            answers.due = time.monotonic() + CHECK_INTERVAL.total_seconds()
        if answers.wrong >= WRONG_ANSWERS:
            answers.not_before = time.monotonic() + PASS_INTERVAL.total_seconds()
        if not was_right and (answers.right or answers.wrong == WRONG_ANSWERS):
            self._on_result()
