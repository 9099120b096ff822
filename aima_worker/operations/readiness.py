"""Waits for an engine to become ready: polls its health check and its container, and streams its log lines.

Ready is an engine whose health check succeeds and whose answers are right. Wrong answers end the wait after
WRONG_ANSWERS in a row; an engine that does not answer yet is waited for. The timeout is a stall, not a wall clock,
where the engine's check says so: each log line restarts it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from threading import Lock, Thread

from aima_core.domain.catalog import HealthCheck
from aima_core.domain.operations import StartService
from aima_core.domain.units import format_duration, format_size
from aima_core.errors import (
    ContainerExited,
    DockerUnavailable,
    EngineAnswersWrong,
    EngineRefused,
    HealthTimeout,
    OutOfMemory,
)
from aima_worker.attempt import Attempt
from aima_worker.context import HostContext
from aima_worker.inference.checks import Unanswered, WrongAnswer, checks_of_start
from aima_worker.inference.http import Request, ask
from aima_worker.runtime import Status

FIRST_PROBE_INTERVAL = timedelta(seconds=0.1)
"""Each failed probe lengthens it, up to LONGEST_PROBE_INTERVAL."""
LONGEST_PROBE_INTERVAL = timedelta(seconds=1)
PROBE_TIMEOUT = timedelta(seconds=5)
WRONG_ANSWERS = 3
"""In a row, after which waiting longer is in vain."""
READER_END_TIMEOUT = timedelta(seconds=5)
LINES_PER_EVENT = 50
"""Of a flood of lines; the number of the others is reported."""
TAIL_LINES = 100


def wait_until_ready(host: HostContext, attempt: Attempt, command: StartService, *, endpoint: str) -> None:
    """Returns as soon as the health check succeeds and the engine's answers are right.

    Raises ContainerExited or OutOfMemory as soon as the container has exited, HealthTimeout or EngineAnswersWrong when
    the check's patience is exhausted, all with the last log lines; and what cancelled the attempt.
    """
    url = f"{endpoint}{command.engine.health_check.path}"
    patience, answers = _Patience(command.engine.health_check), _Answers(host, command, endpoint)
    name = host.container_name(command.service)
    interval = FIRST_PROBE_INTERVAL
    with _streamed_log(host, attempt, name) as log:
        while True:
            if lines := log.take():
                patience.renew()
                attempt.report(lines=lines)
            _raise_if_exited(host, command, name, log)
            problem = check_health(host, url)
            if problem is None and not answers.wrong(attempt):
                return
            if answers.failure is not None and (answers.hopeless or (problem is None and patience.exhausted())):
                answers.failure.remember(log.tail())
                raise answers.failure
            if patience.exhausted():
                waited = format_duration(patience.waited())
                raise HealthTimeout(waited=waited, url=url, last=problem, log_tail=log.tail())
            attempt.sleep(interval)
            interval = min(interval * 1.5, LONGEST_PROBE_INTERVAL)


def check_health(host: HostContext, url: str) -> str | None:
    """Returns None if a GET is answered with 2xx, else the problem."""
    try:
        status = host.probe(url)
    except OSError as unreachable:
        return unreachable.strerror or str(unreachable)
    return None if 200 <= status < 300 else f"HTTP status {status}"


def http_status(url: str) -> int:
    """Returns the status of a GET. Raises OSError if nothing answers within PROBE_TIMEOUT."""
    return ask(Request(url), PROBE_TIMEOUT, 0).status


def last_lines(host: HostContext, name: str) -> tuple[str, ...]:
    """The container's last log lines, oldest first."""
    with host.runtime.logs(name, follow=False, tail=TAIL_LINES) as lines:
        return tuple(line.text for line in lines)


def _raise_if_exited(host: HostContext, command: StartService, name: str, log: _LogBuffer) -> None:
    container = host.runtime.find(name)
    if container is not None and container.status is Status.RUNNING:
        return
    tail = last_lines(host, name) or log.tail()
    if container is not None and container.oom_killed:
        memory = command.engine.limits.memory
        raise OutOfMemory(limit=format_size(memory) if memory else "the host's", log_tail=tail)
    exit_status = "unknown (it was removed)" if container is None else container.exit_code
    raise ContainerExited(exit_status=exit_status, service=command.service, log_tail=tail)


class _Patience:
    """`timeout` from the start; or, with `at_most`, from the last log line, and `at_most` from the start."""

    def __init__(self, check: HealthCheck) -> None:
        self._check = check
        self._began = self._renewed = time.monotonic()

    def renew(self) -> None:
        if self._check.at_most is not None:
            self._renewed = time.monotonic()

    def exhausted(self) -> bool:
        now, timeout = time.monotonic(), self._check.timeout
        at_most = self._check.at_most or timeout
        return now - self._renewed > timeout.total_seconds() or now - self._began > at_most.total_seconds()

    def waited(self) -> timedelta:
        return timedelta(seconds=round(time.monotonic() - self._began))


class _Answers:
    """Asks the engine what its `ready` section wants, each time in a thread that a cancel abandons."""

    def __init__(self, host: HostContext, command: StartService, endpoint: str) -> None:
        self._host = host
        self._endpoint = endpoint
        self._engine = command.engine.name
        self._checks = checks_of_start(command)
        self._wrong_answers = 0
        self.failure: EngineAnswersWrong | None = None
        """Of the last time; None if all answers were right."""

    def wrong(self, attempt: Attempt) -> bool:
        """Whether an answer is missing or wrong. Raises what cancelled the attempt."""
        self.failure = None
        for check in self._checks:
            try:
                attempt.run_in_thread(partial(check.run, self._host.ask, self._endpoint))
            except (Unanswered, WrongAnswer) as problem:
                self._wrong_answers = self._wrong_answers + 1 if isinstance(problem, WrongAnswer) else 0
                self.failure = EngineAnswersWrong(path=check.path, problem=problem, engine=self._engine)
                return True
        return False

    @property
    def hopeless(self) -> bool:
        return self._wrong_answers >= WRONG_ANSWERS


class _LogBuffer:
    """Lines from the reader thread, taken in batches by the waiting one."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._new = 0

    def add(self, line: str) -> None:
        with self._lock:
            self._tail.append(line)
            self._new += 1

    def take(self) -> tuple[str, ...]:
        with self._lock:
            new, self._new = self._new, 0
            lines = tuple(self._tail)[len(self._tail) - min(new, LINES_PER_EVENT) :]
        return lines if new <= LINES_PER_EVENT else (f"({new - LINES_PER_EVENT} lines left out)", *lines)

    def tail(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._tail)


@contextmanager
def _streamed_log(host: HostContext, attempt: Attempt, name: str) -> Iterator[_LogBuffer]:
    buffer = _LogBuffer()
    lines = host.runtime.logs(name, follow=True)

    def read() -> None:
        # An engine that becomes unavailable is noticed by the waiting thread, which asks for the container.
        with suppress(DockerUnavailable, EngineRefused):
            for line in lines:
                buffer.add(line.text)

    reader = Thread(target=read, name=f"log of {name}", daemon=True)
    with attempt.close_on_cancel(lines.close):
        reader.start()
        yield buffer
    reader.join(READER_END_TIMEOUT.total_seconds())
