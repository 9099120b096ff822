"""A master, its replica, and three Sentinels that fail over to the replica when the master crashes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import psutil
from lab.parts import eventually, free_port
from lab.redis_server import RedisServer
from redis import Redis, RedisError

MASTER = "aima"
DOWN_AFTER = timedelta(seconds=1)
AGREES_WITHIN = timedelta(seconds=60)


class Watched:
    """The servers and their address."""

    def __init__(self, program: Path, directory: Path, *, password: str | None = None) -> None:
        self._program = program
        self._directory = directory
        self.password = password or ""
        secret = {"requirepass": password, "masterauth": password} if password else {}
        self.servers = [RedisServer(program, _made(directory / name), **secret) for name in ("one", "two")]
        self.master = self.servers[0]
        self._ports = [free_port() for _ in range(3)]
        self._sentinels: list[subprocess.Popen[bytes]] = []
        hosts = ",".join(f"127.0.0.1:{port}" for port in self._ports)
        secret_in_url = quote(self.password, safe="")
        mine, theirs = (f":{secret_in_url}@", f"&sentinel_password={secret_in_url}") if password else ("", "")
        self.url = f"sentinel://{mine}{hosts}/0?master={MASTER}{theirs}"

    def lines_to_sentinels(self) -> int:
        """The number of connections of this process to them."""
        connections = psutil.Process().net_connections(kind="tcp")
        return sum(bool(each.raddr) and each.raddr.port in self._ports for each in connections)

    def start(self) -> None:
        for server in self.servers:
            server.start()
        self.servers[1].follow(self.master)
        self._sentinels = [self._begin(port) for port in self._ports]
        assert eventually(self.is_guarded, within=AGREES_WITHIN), (
            "the Sentinels do not see master, replica and one another"
        )

    def is_guarded(self) -> bool:
        """Whether every Sentinel knows the replica and the other Sentinels, and the replica has all data."""
        return all(self._knows_all(port) for port in self._ports) and self.replica_has_all()

    def replica_has_all(self) -> bool:
        with self.master.client() as client:
            reported = client.info("replication")
        replica = reported.get("slave0", {})
        return bool(replica) and replica["state"] == "online" and replica["offset"] == reported["master_repl_offset"]

    def kill_master(self) -> None:
        """Kills the master; the replica becomes the master."""
        self.master.kill()
        self.master = next(server for server in self.servers if server is not self.master)

    def has_failed_over(self) -> bool:
        try:
            with self.master.client() as client:
                return str(client.info("replication")["role"]) == "master"
        except RedisError:
            return False

    def kill_sentinel(self, number: int) -> None:
        self._sentinels[number].kill()
        self._sentinels[number].wait(10)

    def end(self) -> None:
        for sentinel in self._sentinels:
            sentinel.kill()
            sentinel.wait(10)
        for server in self.servers:
            server.kill()

    def _knows_all(self, port: int) -> bool:
        try:
            with Redis(port=port, password=self.password or None, socket_timeout=1, decode_responses=True) as client:
                reported = client.sentinel_masters().get(MASTER)
        except RedisError:
            return False
        return bool(reported) and reported["num-slaves"] == 1 and reported["num-other-sentinels"] == 2

    def _begin(self, port: int) -> subprocess.Popen[bytes]:
        directory = _made(self._directory / f"sentinel-{port}")
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {directory}",
            f"sentinel monitor {MASTER} 127.0.0.1 {self.master.port} 2",
            f"sentinel down-after-milliseconds {MASTER} {round(DOWN_AFTER.total_seconds() * 1000)}",
            f"sentinel failover-timeout {MASTER} 5000",
        ]
        if self.password:
            lines += [f'sentinel auth-pass {MASTER} "{self.password}"', f'requirepass "{self.password}"']
        (directory / "sentinel.conf").write_text("\n".join(lines) + "\n")
        return subprocess.Popen(
            [str(self._program), str(directory / "sentinel.conf"), "--sentinel"],
            stdout=(directory / "sentinel.log").open("ab"),
            stderr=subprocess.STDOUT,
        )


@contextmanager
def watched_by_sentinels(program: Path, directory: Path, *, password: str | None = None) -> Iterator[Watched]:
    watched = Watched(program, directory, password=password)
    try:
        watched.start()
        yield watched
    finally:
        watched.end()


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory
