"""One process that `aima up` runs: in a group of its own, its lines passed on, ended within a limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

LAST_LINES = 20
LAUNCHER = Path(__file__).with_name("launch.py")


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
        launcher = [sys.executable, "-IS", str(LAUNCHER), str(os.getpid())] if dies_with_us else []
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
