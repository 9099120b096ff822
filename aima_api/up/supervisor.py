"""Process supervisor of `aima up`: starts parts in order, restarts dead ones with backoff, stops them in reverse order.

The first signal stops every part gracefully, the second kills all at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from aima_core.errors import PartEnded
from aima_core.system.die_with_parent import dying_with_parent

POLL_INTERVAL = timedelta(milliseconds=100)
MAX_RESTARTS = 5
"""In a row; the next death of the part stops everything."""
FIRST_RESTART_DELAY = timedelta(milliseconds=500)
STABLE_AFTER = timedelta(minutes=1)
"""A part that ran for so long has its restarts counted from zero."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
KILLED = 130
LINES_KEPT = 20
START_TIMEOUT = timedelta(seconds=60)
"""From a part's start until it is ready."""
OUTPUT_TIMEOUT = timedelta(seconds=1)
"""For the unread output of a dead process, whose children may keep the pipe open."""


@dataclass(frozen=True)
class Part:
    name: str
    """As it begins a sentence: `The worker`."""
    command: tuple[str, ...]
    environment: Mapping[str, str]
    is_ready: Callable[[], bool]
    stop_timeout: timedelta
    print_line: Callable[[str], None]
    """Takes each line of its output."""
    dies_with_parent: bool = True
    log_tail: Callable[[], list[str]] = list
    """Of a part that logs to a file instead of its output."""


class RunningPart:
    """The process of a part, started by construction and again by `restart`."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.restarts = 0
        self.restart_at: float | None = None
        """None unless it has died."""
        self.restart()

    def restart(self) -> None:
        launcher = dying_with_parent(signal.SIGTERM) if self.part.dies_with_parent else []
        self.started_at, self.restart_at = time.monotonic(), None
        self._process = subprocess.Popen(
            [*launcher, *self.part.command],
            env=os.environ | self.part.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            bufsize=1,
            process_group=0,  # the terminal's Ctrl-C reaches the supervisor only, which keeps the order
        )
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def exit_status(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def failed(self, what: str) -> PartEnded:
        """With its last lines."""
        if self.exit_status is not None:
            self._reader.join(OUTPUT_TIMEOUT.total_seconds())
        lines = list(self._lines) or self.part.log_tail()
        return PartEnded(part=self.part.name, what=what, log_tail=tuple(lines))

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to its process group after the part's timeout; returns once its output is printed."""
        if self.exit_status is None:
            self._process.terminate()
        try:
            self._process.wait(self.part.stop_timeout.total_seconds())
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        # Race: the next part's last lines, or the end of this process.
        self._reader.join(OUTPUT_TIMEOUT.total_seconds())

    def kill(self) -> None:
        if self.exit_status is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def _read(self) -> None:
        output, lines = self._process.stdout, self._lines
        assert output is not None
        with output:
            for line in output:
                lines.append(line.rstrip("\n"))
                self.part.print_line(line.rstrip("\n"))


class ProcessSupervisor:
    def __init__(self, parts: Sequence[Part], *, print_note: Callable[[str], None]) -> None:
        self._parts = parts
        self._print_note = print_note
        self._running: list[RunningPart] = []
        self._signal = ""
        """The first signal received. No `Event`: a handler that interrupts a wait for it could block forever."""

    def run(self, *, on_ready: Callable[[], None], on_stop: Callable[[str], None]) -> None:
        """Runs until a signal, whose name `on_stop` receives.

        Raises PartEnded if a part cannot be started or kept running; all parts are stopped then.
        """
        with self._signals_handled():
            try:
                self._start()
                if not self._signal:
                    on_ready()
                while self._wait():
                    for running in self._running:
                        self._supervise(running)
                on_stop(self._signal)
            finally:
                for running in reversed(self._running):
                    running.stop()

    def _start(self) -> None:
        for part in self._parts:
            if self._signal:
                return
            running = RunningPart(part)
            self._running.append(running)
            self._wait_until_ready(running)

    def _wait_until_ready(self, running: RunningPart) -> None:
        """Returns early at a signal. Raises PartEnded."""
        while not self._signal:
            if running.exit_status is not None:
                raise running.failed(f"ended with exit code {running.exit_status} before it was ready")
            if running.part.is_ready():
                return
            if time.monotonic() - running.started_at > START_TIMEOUT.total_seconds():
                raise running.failed(f"was not ready within {START_TIMEOUT.total_seconds():.0f} s")
            self._wait()

    def _wait(self) -> bool:
        """For POLL_INTERVAL. Returns False once a signal was received."""
        if not self._signal:
            time.sleep(POLL_INTERVAL.total_seconds())
        return not self._signal

    def _supervise(self, running: RunningPart) -> None:
        """Schedules the restart of a dead part, and restarts it when due. Raises PartEnded after MAX_RESTARTS."""
        now = time.monotonic()
        if running.restart_at is None and running.exit_status is not None:
            self._schedule_restart(running, now)
        elif running.restart_at is not None and now >= running.restart_at:
            running.restart()

    def _schedule_restart(self, running: RunningPart, now: float) -> None:
        status = running.exit_status
        if now - running.started_at > STABLE_AFTER.total_seconds():
            running.restarts = 0
        if running.restarts == MAX_RESTARTS:
            raise running.failed(f"ended {MAX_RESTARTS + 1} times, last with exit code {status}")
        delay = (FIRST_RESTART_DELAY * 2**running.restarts).total_seconds()
        running.restarts += 1
        running.restart_at = now + delay
        self._print_note(f"{running.part.name} ended with exit code {status}; restarting it in {delay:g} s.")

    @contextmanager
    def _signals_handled(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, *_: object) -> None:
        if not self._signal:
            self._signal = signal.Signals(number).name
            return
        for running in self._running:
            running.kill()
        os._exit(KILLED)
