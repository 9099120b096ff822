"""A program in a cell, which a test can start, stop, kill and freeze."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import psutil
from lab.cell import Cell
from lab.parts import eventually

ANSWERS_WITHIN = timedelta(seconds=120)
"""Several cold interpreters start at once."""
STOPS_WITHIN = timedelta(seconds=30)
_WORDS_SHOWN = 3000


class Program:
    def __init__(self, inside: Cell, *command: str, log: Path, environment: Mapping[str, str] | None = None) -> None:
        self._cell = inside
        self._command = command
        self._log = log
        self._settings = environment
        self._entering: subprocess.Popen[bytes] | None = None
        self._process: psutil.Process | None = None

    def answers(self) -> bool:
        """Whether it responds; overridden by servers."""
        return self.alive

    @property
    def alive(self) -> bool:
        return self._entering is not None and self._entering.poll() is None

    @property
    def process(self) -> psutil.Process:
        """The process, while it runs."""
        assert self._process is not None, f"{self._command} does not run"
        return self._process

    def start(self) -> None:
        """Starts it and waits until it answers; does nothing while it runs."""
        if self.alive:
            return
        self._process = None  # of a program that has ended by itself
        self._entering = self._cell.run(*self._command, log=self._log, environment=self._settings)
        assert eventually(self._has_entered, within=ANSWERS_WITHIN), self._last_words()
        assert eventually(lambda: not self.alive or self.answers(), within=ANSWERS_WITHIN), self._last_words()
        assert self.alive, self._last_words()

    @contextmanager
    def reported(self, **settings: str) -> Iterator[None]:
        """Restarts it with these settings added, until the block ends."""
        before = self._settings
        self._start_anew({**(before or {}), **settings})
        try:
            yield
        finally:
            self._start_anew(before)

    def _start_anew(self, settings: Mapping[str, str] | None) -> None:
        self.stop()
        self._settings = settings
        self.start()

    def stop(self, *, within: timedelta = STOPS_WITHIN) -> int:
        """SIGTERM; returns its exit code. Raises TimeoutExpired if it takes longer."""
        return self._end(signal.SIGTERM, within)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL, STOPS_WITHIN)

    def freeze(self) -> None:
        """Freezes it until `thaw`: its connections stay open and silent."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        self._send(signal.SIGCONT)
        self._publish_events()

    def said(self) -> str:
        """Its output since the start of the test, across restarts."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _has_entered(self) -> bool:
        assert self._entering is not None
        with suppress(psutil.NoSuchProcess):
            if children := psutil.Process(self._entering.pid).children():
                self._process = children[0]
        return self._process is not None or not self.alive

    def _end(self, how: signal.Signals, within: timedelta) -> int:
        if self._entering is None:
            return 0
        self._send(how)
        self._publish_events()
        code = self._entering.wait(within.total_seconds())
        self._entering = self._process = None
        return code

    def _send(self, what: signal.Signals) -> None:
        if self._process is not None:
            with suppress(psutil.NoSuchProcess):
                self._process.send_signal(what)

    def _publish_events(self) -> None:
        """Resumes the process that entered the cell, which is frozen with it and would not report its exit."""
        if self._entering is not None:
            self._entering.send_signal(signal.SIGCONT)

    def _last_words(self) -> str:
        return f"{' '.join(self._command)}:\n{self.said()[-_WORDS_SHOWN:]}"
