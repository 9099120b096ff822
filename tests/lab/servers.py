"""The shared servers of a lab: Redis, a registry, API nodes, a gateway: programs in its cell, killed singly."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from lab.cell import Cell
from lab.parts import eventually
from lab.program import Program
from lab.redis_server import redis_program
from lab.running import AIMA, Commands
from redis import Redis
from redis.exceptions import RedisError

API_KEY = "the lab's own API key"
REDIS_PASSWORD = "the-password-of-the-lab-s-Redis"
STOPS_WITHIN = timedelta(seconds=90)
"""A worker may have to reconnect to Redis first, which takes 35 s after a partition."""
_REGISTRY_CONFIG = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {home}/data}}}}
http: {{addr: "{address}"}}
"""


class SharedRedis(Program):
    """Redis with an append-only file: it has every acknowledged write after a restart."""

    PORT = 6379

    def __init__(self, inside: Cell, host: str, *, home: Path, log: Path) -> None:
        self.url = f"redis://:{REDIS_PASSWORD}@{host}:{self.PORT}/0"
        self._data = inside.outside(home)
        self._data.mkdir(parents=True)
        settings = {
            "port": str(self.PORT),
            "bind": "0.0.0.0",
            "requirepass": REDIS_PASSWORD,
            "dir": str(home),
            "appendonly": "yes",
            "appendfsync": "always",  # `everysec` loses up to 2 s of writes while an fsync takes long
            "save": "",
        }
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        super().__init__(inside, str(redis_program()), *words, log=log)

    def answers(self) -> bool:
        try:
            with Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1) as client:
                return bool(client.ping())
        except RedisError:
            return False

    def lose_everything(self) -> None:
        """Kills it and restarts it empty."""
        self.kill()
        for left in self._data.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        self.start()


class SharedRegistry(Program):
    """A registry without TLS, which the lab's engines accept."""

    PORT = 5000

    def __init__(self, inside: Cell, host: str, *, home: Path, log: Path) -> None:
        self.address = f"{host}:{self.PORT}"
        config = home / "config.yml"
        inside.outside(home).mkdir(parents=True)
        inside.outside(config).write_text(_REGISTRY_CONFIG.format(home=home, address=self.address))
        super().__init__(inside, "docker-registry", "serve", str(config), log=log)

    def answers(self) -> bool:
        return _status(Request(f"http://{self.address}/v2/")) == 200


class ApiNode(Program, Commands):
    """An API node, and commands to it: `node.record("host", "list")`."""

    def __init__(self, inside: Cell, host: str, *, port: int, log: Path, settings: Mapping[str, str]) -> None:
        self.url = f"http://{host}:{port}"
        reported = {
            **settings,
            "AIMA_API__BIND": host,
            "AIMA_API__PORT": str(port),
            "AIMA_API__KEYS": json.dumps([API_KEY]),
            "AIMA_API__PLAIN": "true",  # the lab's network is this machine's
        }
        Program.__init__(self, inside, str(AIMA), "api", log=log, environment=reported)
        people_s = {"AIMA_CONFIG": os.devnull, "AIMA_URL": self.url, "AIMA_KEY": API_KEY}
        Commands.__init__(self, {**os.environ, **people_s})

    def answers(self) -> bool:
        return _status(Request(f"{self.url}/healthz")) == 200

    def request(self, path: str, body: Any = None) -> Request:
        """A request for `urlopen` with the API key; a POST if there is a body."""
        headers = {"authorization": f"Bearer {API_KEY}", "content-type": "application/json"}
        return Request(f"{self.url}{path}", None if body is None else json.dumps(body).encode(), headers)

    def get(self, path: str, *, within: float = 60) -> Any:
        with urlopen(self.request(path), timeout=within) as answer:
            return json.load(answer)

    def post(self, path: str, body: Any, *, within: float = 60) -> Any:
        with urlopen(self.request(path, body), timeout=within) as answer:
            return json.load(answer)

    def clear(self) -> None:
        """Stops and removes every service and resumes every host, over HTTP because a command is slow."""
        for host in self.get("/v1/hosts")["items"]:
            if host["drained"]:
                self.post(f"/v1/hosts/{host['name']}:resume", {})
        services = [service["id"] for service in self.get("/v1/services?limit=100")["items"]]
        for service in services:
            self.post(f"/v1/services/{service}:stop", {"grace": "0s"})
        for service in services:
            gone = eventually(lambda: self._forget(service), within=STOPS_WITHIN)  # noqa: B023 asked now
            assert gone, f"{service} could not be removed"

    def _forget(self, service: str) -> bool:
        asked = self.request(f"/v1/services/{service}")
        asked.method = "DELETE"
        try:
            urlopen(asked, timeout=60).close()
        except HTTPError as refused:
            return refused.code == HTTPStatus.NOT_FOUND
        return True


class SharedGateway(Program):
    """A gateway on no host: it reaches engines through the data planes, and holds no key that signs."""

    PORT = 7090

    def __init__(self, inside: Cell, host: str, *, log: Path, settings: Mapping[str, str]) -> None:
        self.url = f"http://{host}:{self.PORT}"
        reported = {
            **settings,
            "AIMA_API__KEYS": json.dumps([API_KEY]),
            "AIMA_GATEWAY__BIND": host,
            "AIMA_GATEWAY__PLAIN": "true",
            "AIMA_GATEWAY__KEY": API_KEY,
            "AIMA_STATE_DIR": "/run/gateway",
        }
        super().__init__(inside, str(AIMA), "gateway", log=log, environment=reported)

    def answers(self) -> bool:
        return _status(Request(f"{self.url}/healthz")) == 200

    def metrics(self) -> str:
        asked = Request(f"{self.url}/metrics", headers={"authorization": f"Bearer {API_KEY}"})
        with urlopen(asked, timeout=10) as answer:
            text: str = answer.read().decode()
            return text


def _status(asked: Request) -> int | None:
    try:
        with urlopen(asked, timeout=10) as answer:
            return int(answer.status)
    except (URLError, OSError):
        return None
