"""Waiting until an engine answers: its health check, its life, and its log lines as the progress of loading."""

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
from aima_worker.context import HostContext
from aima_worker.execution.cancellation import Cancellable
from aima_worker.reconciler.inventory import ManagedContainer
from aima_worker.runtime import LogStream, Status

PROBE_EVERY = 0.1
"""Seconds, at first; each probe that fails makes the next wait longer, up to PROBE_AT_LEAST_EVERY."""
PROBE_AT_LEAST_EVERY = 1.0
PROBE_SECONDS = 5.0
LINES_AT_ONCE = 50
"""Of a flood of lines, this many go into one event; how many were left out is said."""
LAST_LINES = 100


def wait_until_ready(host: HostContext, work: Cancellable, command: StartService, *, endpoint: str) -> None:
    """Return as soon as the health check answers well.

    Raises ContainerExited or OutOfMemory as soon as the container has ended, HealthTimeout when the check's patience
    is over, all with the container's last lines; and what interrupts the work.
    """
    url = f"{endpoint}{command.engine.health_check.path}"
    patience = _Patience(command.engine.health_check)
    name = host.container_name(command.service)
    wait = PROBE_EVERY
    with _listening(host, work, name) as heard:
        while True:
            if lines := heard.take():
                patience.renew()
                work.report_log_lines(lines)
            _check_life(host, command, name, heard)
            last = _ask(host, url)
            if last is None:
                return
            if patience.is_over():
                waited = format_duration(patience.waited())
                raise HealthTimeout(waited=waited, url=url, last=last, log_tail=heard.tail())
            work.sleep(wait)
            wait = min(wait * 1.5, PROBE_AT_LEAST_EVERY)


def http_status(url: str) -> int:
    """The status a GET is answered with. Raises OSError when nothing answers within PROBE_SECONDS."""
    where = urlsplit(url)
    connection = HTTPConnection(where.hostname or "", where.port or 80, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", where.path or "/")
        return connection.getresponse().status
    except HTTPException as broken:
        raise OSError(str(broken) or type(broken).__name__) from broken
    finally:
        connection.close()


def last_lines(host: HostContext, name: str) -> tuple[str, ...]:
    """What the container said last, oldest first."""
    with host.runtime.logs(name, follow=False, tail=LAST_LINES) as lines:
        return tuple(line.text for line in lines)


def _ask(host: HostContext, url: str) -> str | None:
    """None when the answer is good, else what was wrong with it."""
    try:
        status = host.probe(url)
    except OSError as silence:
        return silence.strerror or str(silence)
    return None if 200 <= status < 300 else f"HTTP status {status}"


def _check_life(host: HostContext, command: StartService, name: str, heard: _Heard) -> None:
    container = host.runtime.find(name)
    if container is not None and container.status is Status.RUNNING:
        return
    tail = last_lines(host, name) or heard.tail()
    if container is not None and container.oom_killed:
        memory = command.engine.limits.memory
        raise OutOfMemory(limit=format_size(memory) if memory else "the host's", log_tail=tail)
    exit_status = "unknown (it was removed)" if container is None else container.exit_code
    raise ContainerExited(exit_status=exit_status, service=command.service, log_tail=tail)


class _Patience:
    """How long to wait: `timeout` from the start, or, with `at_most`, from the last log line, but never beyond it."""

    def __init__(self, check: HealthCheck) -> None:
        self._check = check
        self._began = self._moved = time.monotonic()

    def renew(self) -> None:
        if self._check.at_most is not None:
            self._moved = time.monotonic()

    def is_over(self) -> bool:
        now = time.monotonic()
        at_most = self._check.at_most or self._check.timeout
        if now - self._moved > self._check.timeout.total_seconds():
            return True
        return now - self._began > at_most.total_seconds()

    def waited(self) -> timedelta:
        return timedelta(seconds=round(time.monotonic() - self._began))


class _Heard:
    """Lines as they come in from the reading thread, taken out in bunches."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._new: deque[str] = deque(maxlen=LINES_AT_ONCE)
        self._left_out = 0
        self._last: deque[str] = deque(maxlen=LAST_LINES)

    def add(self, line: str) -> None:
        with self._lock:
            self._left_out += len(self._new) == LINES_AT_ONCE
            self._new.append(line)
            self._last.append(line)

    def take(self) -> tuple[str, ...]:
        with self._lock:
            lines = (*((f"({self._left_out} lines left out)",) if self._left_out else ()), *self._new)
            self._new.clear()
            self._left_out = 0
            return lines

    def tail(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._last)


@contextmanager
def _listening(host: HostContext, work: Cancellable, name: str) -> Iterator[_Heard]:
    heard = _Heard()
    lines = host.runtime.logs(name, follow=True)
    reader = Thread(target=_listen, args=(lines, heard), name=f"log of {name}", daemon=True)
    with work.close_on_cancel(lines):
        reader.start()
        yield heard
    reader.join(timeout=5)


def _listen(lines: LogStream, heard: _Heard) -> None:
    # Whoever waits asks for the container itself, and is told there that its engine went away.
    with suppress(DockerUnavailable, EngineRefused):
        for line in lines:
            heard.add(line.text)


def health_url(host: HostContext, known: ManagedContainer) -> str:
    return f"{endpoint(host, known)}{known.command.engine.health_check.path}"


def endpoint(host: HostContext, known: ManagedContainer) -> str:
    return f"http://{host.settings.host.address}:{known.port}"


def answers_well(host: HostContext, known: ManagedContainer) -> bool:
    try:
        return 200 <= host.probe(health_url(host, known)) < 300
    except OSError:
        return False


def patience_with(known: ManagedContainer) -> timedelta:
    """How long it may load."""
    check = known.command.engine.health_check
    return max(check.timeout, check.at_most or timedelta())
