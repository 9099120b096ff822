"""One long run of the `docker` program, whose output is read as it comes and which any thread can end at any moment."""

from __future__ import annotations

import os
import select
import subprocess
from contextlib import suppress
from threading import Lock
from typing import Literal, NamedTuple

from aima_worker.runtimes.docker.cli.program import DockerProgram

CHUNK = 64 * 1024
SECONDS_TO_EXIT = 5.0
"""After it has closed its output."""


class Said(NamedTuple):
    stream: Literal["stdout", "stderr"]
    data: bytes


class ProgramStream:
    """Opened and read by one thread, closed by any."""

    def __init__(self, docker: DockerProgram, *arguments: str, on_terminal: bool = False) -> None:
        self.closed = False
        """Whether `close` was called; a program that has ended by itself is not closed."""
        self.exit_code: int | None = None
        """Once all has been read."""
        self._docker = docker
        self._arguments = arguments
        self._on_terminal = on_terminal
        self._reading = Lock()
        self._program: subprocess.Popen[bytes] | None = None
        self._open: dict[int, Literal["stdout", "stderr"]] = {}

    def open(self) -> None:
        """Start the program. Raises DockerUnavailable where there is none."""
        with self._reading:
            if not self.closed:
                self._start()

    def next(self, *, within: float | None) -> Said | None:
        """What it says next; None at the end. Raises TimeoutError when nothing comes `within` seconds."""
        with self._reading:
            while self._open and not self.closed:
                descriptor = self._ready(within)
                if data := _read(descriptor):
                    return Said(self._open[descriptor], data)
                del self._open[descriptor]
                os.close(descriptor)
            self._release(patience=0 if self.closed else SECONDS_TO_EXIT)
            return None

    def close(self) -> None:
        self.closed = True
        if (program := self._program) is not None:
            program.kill()
        # Whoever reads is awake now and lets go at once; only then may the descriptors be given back.
        with self._reading:
            self._release(patience=0)

    def _start(self) -> None:
        command = self._docker.leashed(*self._arguments)
        # A terminal is made only to be written to: nothing can be typed, and no question asked.
        out, their_out = os.openpty() if self._on_terminal else os.pipe()
        err, their_err = os.pipe()
        self._open = {out: "stdout", err: "stderr"}
        try:
            self._program = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=their_out,
                stderr=their_err,
                env=self._docker.environment,
                start_new_session=True,
            )
        except OSError as broken:
            self._release(patience=0)
            raise self._docker.unavailable(broken) from broken
        finally:
            os.close(their_out)
            os.close(their_err)

    def _ready(self, within: float | None) -> int:
        waiting = select.poll()
        for descriptor in self._open:
            waiting.register(descriptor, select.POLLIN)
        ready = waiting.poll(None if within is None else within * 1000)
        if not ready:
            raise TimeoutError
        return ready[0][0]

    def _release(self, *, patience: float) -> None:
        if (program := self._program) is not None:
            with suppress(subprocess.TimeoutExpired):
                self.exit_code = program.wait(patience)
            program.kill()
            program.wait()
            self._program = None
        for descriptor in self._open:
            os.close(descriptor)
        self._open = {}


def _read(descriptor: int) -> bytes:
    """Empty at the end, which a terminal tells as an error."""
    try:
        return os.read(descriptor, CHUNK)
    except OSError:
        return b""
