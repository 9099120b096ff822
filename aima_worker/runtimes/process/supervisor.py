"""One engine's supervisor: `python -m aima_worker.runtimes.process.supervisor DIRECTORY`, an order on its stdin.

It writes the log, polls the memory against its limit, forwards SIGTERM, kills all other processes once the first one
exits, and records the exit. It survives a crash of the worker; if it crashes itself, the runtime kills the engine.
It reports one line on stdout: `started`, or the reason why not. Single-threaded; the standard library only.
"""

from __future__ import annotations

import json
import math
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

from aima_core.logs.dedup import StreamName
from aima_worker.runtimes.line_splitter import LineSplitter
from aima_worker.runtimes.process.files import LOG, RUNNING, WORK, LogWriter, write, write_exit
from aima_worker.runtimes.process.process_table import Process, family, kill_family, private_memory, proportional_memory

CHUNK = 1 << 16
MEMORY_CHECK_INTERVAL = timedelta(milliseconds=250)
CHECKS_PER_SCAN = 8
"""Memory checks that use the cached list of processes before the next scan, which costs more."""
DRAIN_TIMEOUT = timedelta(seconds=1)
"""For the rest of the output after the exit. A process that escaped may hold the pipes open without a deadline."""
OOM_SCORE_ADJUSTMENT = "500"
"""So that the kernel's out-of-memory killer selects an engine before the worker."""


def main() -> None:
    directory = Path(sys.argv[1])
    order = json.load(sys.stdin)
    try:
        engine = start(order, directory / WORK)
    except (OSError, subprocess.SubprocessError) as refused:
        report(str(refused))
        return
    Supervisor(directory, order, engine).supervise()


def start(order: dict[str, Any], work: Path) -> subprocess.Popen[bytes]:
    def set_limits() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(OSError):  # it may be higher already
            Path("/proc/self/oom_score_adj").write_text(OOM_SCORE_ADJUSTMENT)
        if order["cores"]:
            os.sched_setaffinity(0, share_of_cores(order["cores"], seed=order["id"]))

    return subprocess.Popen(
        order["command"],
        env=order["environment"],
        cwd=work,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=set_limits,
    )


def share_of_cores(cores: float, *, seed: str) -> set[int]:
    """Adjacent cores from a random first one, so that concurrent engines do not all share the first cores."""
    available = sorted(os.sched_getaffinity(0))
    first = int(seed[:8], 16) % len(available)
    return {available[(first + step) % len(available)] for step in range(min(math.ceil(cores), len(available)))}


def report(line: str) -> None:
    """Report to the worker, unless it has crashed, and close stdin, stdout and stderr."""
    try:
        os.write(1, line.replace("\n", " ").encode() + b"\n")
    except BrokenPipeError:
        pass
    finally:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        os.close(nowhere)


class Supervisor:
    """Supervises one engine from its start to its exit."""

    def __init__(self, directory: Path, order: dict[str, Any], engine: subprocess.Popen[bytes]) -> None:
        self._directory = directory
        self._mark: str = order["id"]
        self._memory: int | None = order["memory"]
        self._engine = engine
        self._leader = Process.of(engine.pid)
        self._log = LogWriter(directory / LOG)
        self._splitters: dict[StreamName, LineSplitter] = {"stdout": LineSplitter(), "stderr": LineSplitter()}
        self._out_of_memory = False
        self._memory_checks = 0
        self._next_memory_check = 0.0
        self._family: list[Process] = []
        self._selector = selectors.DefaultSelector()

    def supervise(self) -> None:
        self._register()
        running = {"supervisor": Process.of(os.getpid()), "engine": self._leader, "at": time.time()}
        write(self._directory / RUNNING, running)
        report("started")
        while self._engine.poll() is None:
            self._read_pipes(within=MEMORY_CHECK_INTERVAL.total_seconds() if self._memory else None)
            self._check_memory()
        kill_family(self._leader, self._mark)
        self._drain()
        code = self._engine.returncode
        write_exit(self._directory, code=code if code >= 0 else 128 - code, out_of_memory=self._out_of_memory)

    def _register(self) -> None:
        """Register the engine's two pipes, and signals, which wake the blocked selector."""
        assert self._engine.stdout and self._engine.stderr
        for pipe, stream in ((self._engine.stdout, "stdout"), (self._engine.stderr, "stderr")):
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ, stream)
        woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(woken, selectors.EVENT_READ, None)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._terminate())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _terminate(self) -> None:
        # Race: once the engine is reaped, its pid may be reused.
        if self._engine.returncode is None:
            os.killpg(self._engine.pid, signal.SIGTERM)

    def _read_pipes(self, *, within: float | None) -> bool:
        """Copy the output to the log. Returns whether there was any."""
        received = False
        for key, _ in self._selector.select(within):
            if key.data is None:
                os.read(key.fd, CHUNK)
            else:
                received = self._read(key.fileobj, key.data) or received  # type: ignore[arg-type]  # as registered
        return received

    def _read(self, pipe: IO[bytes], stream: StreamName) -> bool:
        data = os.read(pipe.fileno(), CHUNK)
        splitter = self._splitters[stream]
        self._log.write(stream, splitter.feed(data) if data else splitter.end())
        if not data:
            self._selector.unregister(pipe)
        return bool(data)

    def _check_memory(self) -> None:
        if self._memory is None or time.monotonic() < self._next_memory_check:
            return
        self._next_memory_check = time.monotonic() + MEMORY_CHECK_INTERVAL.total_seconds()
        if self._memory_checks % CHECKS_PER_SCAN == 0:
            self._family = family(self._leader, self._mark)
        self._memory_checks += 1
        if private_memory(self._family) > self._memory and proportional_memory(self._family) > self._memory:
            self._out_of_memory = True
            self._engine.kill()

    def _drain(self) -> None:
        deadline = time.monotonic() + DRAIN_TIMEOUT.total_seconds()
        while time.monotonic() < deadline and self._read_pipes(within=0):
            continue
        for stream, splitter in self._splitters.items():
            self._log.write(stream, splitter.end())
        self._log.close()


if __name__ == "__main__":
    main()
