"""Keeps parts running until it is told to end: begun in order, restarted when they die, ended in reverse.

The first signal ends them in peace, the second kills them at once.
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
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType

from aima_core.errors import PartEnded
from aima_core.system.die_with_parent import dying_with_parent

LAST_LINES = 20


class Child:
    """Begun as it is made."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        dies_with_us: bool,
        tell: Callable[[str], None],
    ) -> None:
        launcher = dying_with_parent(signal.SIGTERM) if dies_with_us else []
        self._process = subprocess.Popen(
            [*launcher, *command],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            bufsize=1,
            process_group=0,  # the terminal's Ctrl-C is for us: who ends when is decided here
        )
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._reader = threading.Thread(target=self._pass_on, args=(tell,), daemon=True)
        self._reader.start()

    @property
    def exit_status(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def last_lines(self) -> list[str]:
        """What it said last; waits a moment for what a dead child has said and nobody has read."""
        if self.exit_status is not None:
            self._reader.join(timeout=1)
        return list(self._lines)

    def end(self, *, within: timedelta) -> None:
        """Ask it to end, and kill its group when it does not; nothing if it has ended."""
        if self.exit_status is None:
            self._process.terminate()
        try:
            self._process.wait(within.total_seconds())
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()

    def kill(self) -> None:
        if self.exit_status is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def _pass_on(self, tell: Callable[[str], None]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line.rstrip("\n"))
            tell(line.rstrip("\n"))
        self._process.stdout.close()


LOOKS_EVERY = timedelta(milliseconds=100)
RESTARTS = 5
"""So often in a row is a part brought back; then everything ends."""
FIRST_REST = timedelta(milliseconds=500)
LIVED_WELL = timedelta(minutes=1)
"""A part that lived so long begins its restarts anew."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
KILLED = 130


@dataclass(frozen=True)
class Part:
    name: str
    """As it begins a sentence: `The worker`."""
    command: tuple[str, ...]
    environment: Mapping[str, str]
    ready: Callable[[], bool]
    ready_within: timedelta
    ends_within: timedelta
    tell: Callable[[str], None]
    """Takes each line it says."""
    dies_with_us: bool = True
    own_log: Callable[[], list[str]] = list
    """Its last lines, where it keeps a log instead of saying them."""


@dataclass
class _Running:
    part: Part
    child: Child
    began: float = field(default_factory=time.monotonic)
    restarts: int = 0
    again_at: float | None = None
    """When it is brought back; None unless it has died."""


class ProcessSupervisor:
    def __init__(self, parts: Sequence[Part], *, tell: Callable[[str], None]) -> None:
        self._parts = parts
        self._tell = tell
        self._running: list[_Running] = []
        self._ending = threading.Event()
        self._told_by = ""

    def run(self, *, when_ready: Callable[[], None], when_ending: Callable[[str], None]) -> None:
        """Until a signal, whose name `when_ending` is told.

        Raises PartEnded once a part cannot be begun or kept alive; all have ended then.
        """
        with self._signals():
            try:
                self._begin()
                if not self._ending.is_set():
                    when_ready()
                while not self._ending.wait(LOOKS_EVERY.total_seconds()):
                    for running in self._running:
                        self._keep(running)
                when_ending(self._told_by)
            finally:
                self._end()

    def _begin(self) -> None:
        for part in self._parts:
            running = _Running(part, _child(part))
            self._running.append(running)
            if not self._until_ready(running):
                return

    def _until_ready(self, running: _Running) -> bool:
        """Whether it is; False when a signal came first. Raises PartEnded."""
        part, child = running.part, running.child
        deadline = time.monotonic() + part.ready_within.total_seconds()
        while not self._ending.is_set():
            if child.exit_status is not None:
                raise _ended(running, f"ended with exit code {child.exit_status} before it was ready")
            if part.ready():
                return True
            if time.monotonic() > deadline:
                raise _ended(running, f"was not ready within {part.ready_within.total_seconds():.0f} s")
            self._ending.wait(LOOKS_EVERY.total_seconds())
        return False

    def _keep(self, running: _Running) -> None:
        """Notice its death, and bring it back when it is time. Raises PartEnded when that has not helped."""
        now = time.monotonic()
        if running.again_at is None and running.child.exit_status is not None:
            self._mourn(running, now)
        elif running.again_at is not None and now >= running.again_at:
            running.child, running.began, running.again_at = _child(running.part), now, None

    def _mourn(self, running: _Running, now: float) -> None:
        if now - running.began > LIVED_WELL.total_seconds():
            running.restarts = 0
        if running.restarts == RESTARTS:
            raise _ended(running, f"ended {RESTARTS + 1} times, last with exit code {running.child.exit_status}")
        rest = FIRST_REST * 2**running.restarts
        running.restarts += 1
        running.again_at = now + rest.total_seconds()
        status = running.child.exit_status
        self._tell(f"{running.part.name} ended with exit code {status}; it comes back in {rest.total_seconds():g} s.")

    def _end(self) -> None:
        for running in reversed(self._running):
            running.child.end(within=running.part.ends_within)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 signal's signature
        if not self._ending.is_set():
            self._told_by = signal.Signals(number).name
            self._ending.set()
            return
        for running in self._running:
            running.child.kill()
        os._exit(KILLED)


def _child(part: Part) -> Child:
    return Child(part.command, environment=part.environment, dies_with_us=part.dies_with_us, tell=part.tell)


def _ended(running: _Running, what: str) -> PartEnded:
    lines = running.child.last_lines() or running.part.own_log()
    return PartEnded(part=running.part.name, what=what, log_tail=tuple(lines))
