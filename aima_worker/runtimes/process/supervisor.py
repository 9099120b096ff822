"""One engine's supervisor: `python -m aima_worker.runtimes.process.supervisor DIRECTORY`, an order on its stdin.

It claims the engine's user, writes the log, polls memory and disk against their limits, forwards SIGTERM, kills all
other processes once the first one exits, and records the exit. It survives a crash of the worker; if it crashes itself,
the runtime kills the engine. It reports one line on stdout: `started`, or the reason why not; `denied PATH` if the
engine's user may not read its program or model. Single-threaded; the standard library only.
"""

from __future__ import annotations

import json
import math
import os
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
from aima_core.system.hardening import adopt_orphans
from aima_worker.runtimes.line_splitter import LineSplitter
from aima_worker.runtimes.process.cgroup import Cgroup
from aima_worker.runtimes.process.confinement import Confinement, Denied
from aima_worker.runtimes.process.disk import DiskLimit
from aima_worker.runtimes.process.files import LOG, RUNNING, WORK, LogWriter, write, write_exit
from aima_worker.runtimes.process.process_table import Process, family, kill_family, private_memory, proportional_memory
from aima_worker.runtimes.process.users import claimed, gpu_groups, kill_processes_of

CHUNK = 1 << 16
CHECK_INTERVAL = timedelta(milliseconds=250)
CHECKS_PER_SCAN = 8
"""Checks of memory and disk that use the cached list of processes before the next scan, which costs more."""
DRAIN_TIMEOUT = timedelta(seconds=1)
"""For the rest of the output after the exit. A process that escaped may hold the pipes open without a deadline."""


def main() -> None:
    directory = Path(sys.argv[1])
    order = json.load(sys.stdin)
    adopt_orphans()
    confinement = None
    try:
        confinement = _confinement(order, directory / WORK, _own_user(order, directory / WORK))
        engine = start(order, confinement)
    except OSError as refused:
        if confinement is not None and confinement.cgroup is not None:
            confinement.cgroup.remove()
        report(str(refused))
    else:
        Supervisor(directory, order, engine, confinement).supervise()


def _own_user(order: dict[str, Any], work: Path) -> int | None:
    """Claimed until this process exits; None if engines run as the worker's."""
    if order["users"] is None:
        return None
    user, _ = claimed(range(*order["users"]))
    os.chown(work, user, user)
    if order["secrets"] is not None:
        for path in (Path(order["secrets"]), *Path(order["secrets"]).iterdir()):
            os.chown(path, user, user)
    return user


def _confinement(order: dict[str, Any], work: Path, user: int | None) -> Confinement:
    return Confinement(
        work=work,
        program=order["command"][0],
        disk=order["disk"],
        pids=order["pids"],
        shared_memory=order["shared_memory"],
        cgroup=None if user is None else Cgroup.make(f"aima-{user}", memory=order["memory"], pids=order["pids"]),
        user=user,
        groups=tuple(gpu_groups()) if order["gpus"] else (),
        reads=tuple(order["reads"]),
        secrets=order["secrets"],
        words=(*order["command"], *order["environment"].values()),
    )


def start(order: dict[str, Any], confinement: Confinement) -> subprocess.Popen[bytes]:
    """Raises OSError with the reason, that of Denied, too."""
    reasons, reason = os.pipe2(os.O_CLOEXEC)

    def confine() -> None:
        try:
            if order["cores"]:
                os.sched_setaffinity(0, share_of_cores(order["cores"], seed=order["id"]))
            confinement.enter()
        except (Denied, OSError) as failed:
            os.write(reason, str(failed).encode())
            raise

    try:
        return subprocess.Popen(
            order["command"],
            env=order["environment"],
            cwd=confinement.work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=confine,
        )
    except subprocess.SubprocessError as failed:
        os.close(reason)
        raise OSError(os.read(reasons, CHUNK).decode(errors="replace") or str(failed)) from failed


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

    def __init__(
        self, directory: Path, order: dict[str, Any], engine: subprocess.Popen[bytes], confinement: Confinement
    ) -> None:
        self._directory = directory
        self._mark: str = order["id"]
        self._user = confinement.user
        self._cgroup = confinement.cgroup
        self._killer: int | None = order["users"][1] - 1 if order["users"] else None
        self._memory: int | None = order["memory"]
        self._disk = DiskLimit(directory / WORK, order["disk"])
        self._engine = engine
        self._leader = Process.of(engine.pid)
        self._log = LogWriter(directory / LOG)
        self._splitters: dict[StreamName, LineSplitter] = {"stdout": LineSplitter(), "stderr": LineSplitter()}
        self._out_of_memory = False
        self._checks = 0
        self._next_check = 0.0
        self._family: list[Process] = []
        self._selector = selectors.DefaultSelector()

    def supervise(self) -> None:
        self._register()
        processes = {"supervisor": Process.of(os.getpid()), "engine": self._leader}
        users = {"user": self._user, "killer": self._killer}
        try:
            write(self._directory / RUNNING, {**processes, **users, "at": time.time()})
        except OSError as failed:
            self._kill_all()
            report(str(failed))
            return
        report("started")
        while self._engine.poll() is None:
            self._read_pipes(within=CHECK_INTERVAL.total_seconds())
            self._check_limits()
            self._reap_orphans()
        self._kill_all()
        self._reap_orphans()
        self._drain()
        code = self._engine.returncode
        write_exit(self._directory, code=code if code >= 0 else 128 - code, out_of_memory=self._out_of_memory)

    def _kill_all(self) -> None:
        if self._user is not None and self._killer is not None:
            kill_processes_of(self._user, killer=self._killer)
        kill_family(self._leader, self._mark)
        if self._cgroup is not None:
            self._out_of_memory = self._out_of_memory or self._cgroup.out_of_memory()
            self._cgroup.remove()

    def _reap_orphans(self) -> None:
        """All but the engine's first process, which `poll` reaps."""
        with suppress(ChildProcessError):
            while (exited := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if exited.si_pid == self._engine.pid and self._engine.returncode is None:
                    return
                os.waitpid(exited.si_pid, 0)

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

    def _check_limits(self) -> None:
        if time.monotonic() < self._next_check:
            return
        self._next_check = time.monotonic() + CHECK_INTERVAL.total_seconds()
        if self._checks % CHECKS_PER_SCAN == 0:
            self._family = family(self._leader, self._mark, self._user)
        self._checks += 1
        if self._memory is not None and self._takes_more_than(self._memory):
            self._out_of_memory = True
            self._engine.kill()
        elif (excess := self._disk.exceeded(self._family)) is not None:
            self._log.write("stderr", [f"[killed by AIMA: {excess}]"])
            self._engine.kill()

    def _takes_more_than(self, limit: int) -> bool:
        if self._cgroup is not None and self._cgroup.out_of_memory():
            return True
        return private_memory(self._family) > limit and proportional_memory(self._family) > limit

    def _drain(self) -> None:
        deadline = time.monotonic() + DRAIN_TIMEOUT.total_seconds()
        while time.monotonic() < deadline and self._read_pipes(within=0):
            continue
        for stream, splitter in self._splitters.items():
            self._log.write(stream, splitter.end())
        self._log.close()


if __name__ == "__main__":
    main()
