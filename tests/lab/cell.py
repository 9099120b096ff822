"""A cell: network, mount and process namespaces of one test, removed with it.

Every process inside is killed with the cell's first process; mounts and networks are removed with it. So a private
Docker Engine, its containers and a small disk leave nothing behind, even when the test is killed. A thread of the test
can enter the cell's network and use its loopback device.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psutil
from lab.parts import missing

ENDS_WITHIN = timedelta(seconds=60)
_CLONE_NEWNET = 0x40000000
_OUTERMOST = (
    *("setpriv", "--pdeathsig", "KILL", "--"),
    *("unshare", "--net", "--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--mount-proc", "--"),
)
_FIRST_PROCESS = """
mount -t tmpfs tmpfs /run && mkdir /run/lock && ip link set lo up && echo ready
sleep infinity & wait  # and so buries whoever dies here without a parent
"""


class Cell:
    def __init__(self, first: psutil.Process) -> None:
        self._first = first
        self._entering: list[subprocess.Popen[bytes]] = []

    @property
    def pid(self) -> int:
        """Its first process, through which programs outside enter the cell."""
        return self._first.pid

    def outside(self, path: Path) -> Path:
        """The path from here to `path` inside."""
        return Path(f"/proc/{self.pid}/root") / path.relative_to("/")

    def run(
        self, *command: str, log: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program inside; its output goes to `log`, and `environment` adds to this process' own."""
        with (log or Path(os.devnull)).open("ab") as said:
            entering = subprocess.Popen(
                self._inside(command),
                stdout=said,
                stderr=said,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(environment or {})},
            )
        self._entering.append(entering)
        return entering

    def do(self, *command: str) -> str:
        """Run a program inside to its end; returns its output. Raises AssertionError when it fails."""
        done = subprocess.run(self._inside(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}"
        return done.stdout

    @contextmanager
    def entered(self) -> Iterator[None]:
        """While inside, this thread and those it starts are in the cell's network."""
        with Path("/proc/thread-self/ns/net").open() as here, Path(f"/proc/{self._first.pid}/ns/net").open() as there:
            _enter_network(there.fileno())
            try:
                yield
            finally:
                _enter_network(here.fileno())

    def wait_until_empty(self) -> None:
        for entering in self._entering:
            entering.wait(ENDS_WITHIN.total_seconds())

    def _inside(self, command: Sequence[str]) -> list[str]:
        return ["nsenter", "--target", str(self._first.pid), "--net", "--mount", "--pid", "--", *command]


@contextmanager
def cell() -> Iterator[Cell]:
    """A new cell; skips the test if this process lacks the privileges."""
    require_root("unshare", "nsenter", "setpriv", "mount", "ip")
    # Its outermost process is killed with the test process, and the cell with it.
    outermost = subprocess.Popen(
        [*_OUTERMOST, "sh", "-c", _FIRST_PROCESS],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert outermost.stdout is not None
        with (
            outermost.stdout
        ):  # closed at once: a cell of several tests must not look like a descriptor that one leaves
            assert outermost.stdout.readline() == "ready\n", "the cell did not come up"
        (first,) = psutil.Process(outermost.pid).children()
        made = Cell(first)
        try:
            yield made
        finally:
            outermost.kill()
            made.wait_until_empty()
    finally:
        outermost.kill()
        outermost.wait()


def require_root(*programs: str) -> None:
    """Skip the test where it is not root, or lacks one of these programs; fail it in CI."""
    if os.geteuid() != 0:
        missing("only root can give a test a network, mounts and processes of its own; run the tests as root")
    if lacking := [program for program in programs if shutil.which(program) is None]:
        missing(f"there is no {lacking[0]}; `apt-get install util-linux mount iproute2 e2fsprogs` brings it")


def _enter_network(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
