"""Waits for an engine to become ready: polls its health check and its container, and streams its log lines.

The timeout is a stall, not a wall clock, where the engine's check says so: each log line restarts it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from http.client import HTTPConnection, HTTPException
from threading import Lock, Thread
from urllib.parse import urlsplit

from aima_core.domain.catalog import HealthCheck
from aima_core.domain.operations import StartService
from aima_core.domain.units import format_duration, format_size
from aima_core.errors import ContainerExited, DockerUnavailable, EngineRefused, HealthTimeout, OutOfMemory
from aima_worker.attempt import Attempt
from aima_worker.context import HostContext
from aima_worker.runtime import Status

FIRST_PROBE_INTERVAL = timedelta(seconds=0.1)
"""Each failed probe lengthens it, up to LONGEST_PROBE_INTERVAL."""
LONGEST_PROBE_INTERVAL = timedelta(seconds=1)
PROBE_TIMEOUT = timedelta(seconds=5)
READER_END_TIMEOUT = timedelta(seconds=5)
LINES_PER_EVENT = 50
"""Of a flood of lines; the number of the others is reported."""
TAIL_LINES = 100


def wait_until_ready(host: HostContext, attempt: Attempt, command: StartService, *, endpoint: str) -> None:
    """Returns as soon as the health check succeeds.

    Raises ContainerExited or OutOfMemory as soon as the container has exited, HealthTimeout when the check's patience
    is exhausted, all with the last log lines; and what cancelled the attempt.
    """
    url = f"{endpoint}{command.engine.health_check.path}"
    patience = _Patience(command.engine.health_check)
    name = host.container_name(command.service)
    interval = FIRST_PROBE_INTERVAL
    with _streamed_log(host, attempt, name) as log:
        while True:
            if lines := log.take():
                patience.renew()
                attempt.report(lines=lines)
            _raise_if_exited(host, command, name, log)
            problem = check_health(host, url)
            if problem is None:
                return
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
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port or 80, timeout=PROBE_TIMEOUT.total_seconds())
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status
    except HTTPException as broken:
        raise OSError(str(broken) or type(broken).__name__) from broken
    finally:
        connection.close()


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
