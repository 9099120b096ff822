"""An API node in a separate process, and a client that sends many requests concurrently."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
from lab.commands import SIGNING_KEY
from lab.forked import Process, launch
from lab.parts import eventually, free_port

UP_WITHIN = timedelta(seconds=60)
CLIENTS = 4
"""Concurrent requests."""


class ApiProcess:
    def __init__(
        self, redis_url: str, directory: Path, *, catalog: Path | None = None, name: str = "api", **settings: str
    ) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx2.Client(base_url=self.url, timeout=60, verify=False)  # without TLS: a context costs 50 ms
        self._log = directory / f"{name}.log"
        self._environment = {
            **os.environ,
            "AIMA_CONFIG": os.devnull,
            "AIMA_API__PORT": str(port),
            "AIMA_REDIS__URL": redis_url,
            "AIMA_SIGNING_KEY": SIGNING_KEY.get_secret_value(),
            **({"AIMA_API__CATALOG": str(catalog)} if catalog else {}),
            **settings,
        }
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def begin(self) -> None:
        with self._log.open("ab") as log:
            self._process = launch("aima_api", env=self._environment, stdout=log, stderr=log)

    def up(self) -> None:
        self.begin()
        assert eventually(self.answers, within=UP_WITHIN), self._log.read_text()

    def answers(self) -> bool:
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def exit_code(self) -> int:
        assert self._process is not None
        return self._process.wait(UP_WITHIN.total_seconds())

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def start(self, service: str, **options: Any) -> list[dict[str, Any]]:
        """The operations of an accepted start."""
        return self._operations(f"/v1/services/{service}:start", options)

    def stop(self, service: str, **options: Any) -> list[dict[str, Any]]:
        return self._operations(f"/v1/services/{service}:stop", options)

    def for_each(self, services: Iterable[str], ask: Callable[[str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """Sends a request for each service, several concurrently; returns all operations."""
        with ThreadPoolExecutor(CLIENTS) as clients:
            return [operation for operations in clients.map(ask, services) for operation in operations]

    def all(self, what: str, **having: str) -> Iterator[dict[str, Any]]:
        """Every record of a listing, page by page."""
        asked = dict(having)
        while True:
            answer = self.client.get(f"/v1/{what}", params=asked)
            assert answer.status_code == 200, answer.text
            page = answer.json()
            yield from page["items"]
            if not page["next"]:
                return
            asked["cursor"] = page["next"]

    def _operations(self, path: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        answer = self.client.post(path, json=dict(body))
        assert answer.status_code == 202, answer.text
        operations: list[dict[str, Any]] = answer.json()["operations"]
        return operations


@contextmanager
def api_process(redis_url: str, directory: Path, *, catalog: Path | None = None) -> Iterator[ApiProcess]:
    api = ApiProcess(redis_url, directory, catalog=catalog)
    try:
        api.up()
        yield api
    finally:
        api.kill()
        api.client.close()
