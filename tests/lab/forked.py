"""Processes of AIMA's programs, forked from one that has imported them: `python -m` takes 1 to 3 s of a core.

A process runs the program's `__main__` with its own arguments, environment, descriptors and limit of descriptors. Only
its command line, its /proc environment and its parent are those of the fork server, of which each program has one per
run of pytest. Tests of these, and of the import itself, start `python -m`, as `aima up` does.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NamedTuple

TESTS = Path(__file__).parents[1]
PROGRAMS = {
    "aima_api": "aima_api.app",
    "aima_api.gateway": "aima_api.gateway.app",
    "aima_worker": "aima_worker.app",
    "aima_worker.dataplane": "aima_worker.dataplane.server",
    "lab.fleet_process": "lab.fleet_process",
    "worker.models.fetching": "aima_worker.models.fetch",
    "faults.killed_worker": "faults.killed_worker",
}
"""What is imported before a process of the program is forked."""
NAMESPACES = ("net", "mnt", "pid", "ipc", "uts")
MOST = 1 << 20
PARENT_CHECKED_EVERY = 1.0
Stream = IO[Any] | int | None
_starting = threading.Lock()


class ForkedProcess:
    """As subprocess.Popen: its exit code, negative after a signal, arrives on the connection to the fork server."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._connection = connection

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self.returncode = int(self._connection.recv(MOST))
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # race: it ends meanwhile
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Process = subprocess.Popen[bytes] | ForkedProcess


def launch(
    program: str,
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = None,
    stderr: Stream = None,
) -> Process:
    """Runs `python -m PROGRAM ARGUMENTS`, forked unless this thread has entered another namespace."""
    words, environment = [str(each) for each in arguments], dict(os.environ if env is None else env)
    if _namespaces() != _namespaces_at_first():
        command = [sys.executable, "-m", program, *words]
        return subprocess.Popen(command, env=environment, stdin=stdin, stdout=stdout, stderr=stderr)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with Path(os.devnull).open("r+b") as nothing:
        with _starting:  # race: a server that two threads start at once
            connection.connect(_fork_server(program))
        files = [_descriptor(each, nothing, own) for each, own in ((stdin, 0), (stdout, 1), (stderr, 2))]
        request = {"arguments": words, "environment": environment, "directory": str(Path.cwd())}
        request |= {"descriptors": resource.getrlimit(resource.RLIMIT_NOFILE)}
        socket.send_fds(connection, [json.dumps(request).encode()], files)
        return ForkedProcess(connection, int(connection.recv(MOST)))


def _descriptor(given: Stream, nothing: IO[bytes], own: int) -> int:
    if given is None:
        return own
    if given == subprocess.DEVNULL:
        return nothing.fileno()
    return given if isinstance(given, int) else int(given.fileno())


def _namespaces() -> list[int]:
    """Those of this thread, by number."""
    return [Path(f"/proc/thread-self/ns/{each}").stat().st_ino for each in NAMESPACES]


@cache
def _namespaces_at_first() -> list[int]:
    """Those of the process's first thread, which enters none."""
    return [Path(f"/proc/{os.getpid()}/ns/{each}").stat().st_ino for each in NAMESPACES]


@cache
def _fork_server(program: str) -> str:
    """The abstract address of the fork server of that program; it is started at the first call."""
    address = f"\0aima-test-{os.getpid()}-{program}"
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(address)
        listening.listen(64)
        subprocess.Popen(
            [sys.executable, "-m", "lab.forked", program, str(listening.fileno())],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            pass_fds=[listening.fileno()],
        )
    return address


# The fork server ------------------------------------------------------------------------------------------------------


class Request(NamedTuple):
    arguments: Sequence[str]
    environment: Mapping[str, str]
    directory: str
    descriptors: tuple[int, int]


class ForkServer:
    """Forks a process per connection, and sends its pid and later its exit code. Ends with the run of pytest."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._running: dict[int, tuple[int, socket.socket]] = {}
        """A pidfd → the pid and the connection."""

    def serve(self) -> Request:
        """Returns in each process that it has forked."""
        parent = os.getppid()
        while os.getppid() == parent:
            readable, _, _ = select.select([self._listening, *self._running], [], [], PARENT_CHECKED_EVERY)
            for each in readable:
                if each is not self._listening:
                    self._report(each)
                elif request := self._fork():
                    return request
        for pid, _ in self._running.values():
            os.kill(pid, signal.SIGKILL)
        os._exit(0)

    def _fork(self) -> Request | None:
        connection, _ = self._listening.accept()
        text, files, _, _ = socket.recv_fds(connection, MOST, 3)
        if not text:
            connection.close()
            return None
        pid = os.fork()
        if pid == 0:
            for number, file in enumerate(files):
                os.dup2(file, number)
            for file in [*files, connection.fileno(), *self._running]:
                os.close(file)
            connection.detach()
            for _, other in self._running.values():
                other.close()
            self._listening.close()
            return Request(**json.loads(text))
        for file in files:
            os.close(file)
        connection.send(str(pid).encode())
        self._running[os.pidfd_open(pid)] = pid, connection
        return None

    def _report(self, pidfd: int) -> None:
        pid, connection = self._running.pop(pidfd)
        _, status = os.waitpid(pid, 0)
        os.close(pidfd)
        with suppress(OSError):
            connection.send(str(os.waitstatus_to_exitcode(status)).encode())
        connection.close()


def main() -> None:
    program, number = sys.argv[1:]
    import_module(PROGRAMS[program])
    assert threading.active_count() == 1, f"an import of {program} starts threads, which a fork loses"
    gc.collect()
    gc.freeze()
    asked = ForkServer(socket.socket(fileno=int(number))).serve()
    resource.setrlimit(resource.RLIMIT_NOFILE, asked.descriptors)
    os.chdir(asked.directory)
    os.environ.clear()
    os.environ.update(asked.environment)
    sys.argv = [program, *asked.arguments]
    sys.orig_argv = [sys.executable, "-m", program, *asked.arguments]  # by which a worker executes itself again
    runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
