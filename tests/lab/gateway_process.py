"""A gateway in a separate process, certified by an API node."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import httpx2
from lab.commands import SIGNING_KEY
from lab.forked import Process, launch
from lab.parts import eventually, free_port

UP_WITHIN = timedelta(seconds=60)


class GatewayProcess:
    def __init__(
        self, redis_url: str, api_url: str, directory: Path, *, key: str, api_key: str, **settings: str
    ) -> None:
        """`key` has the scope `gateway`; with `api_key` in its settings it asks for keys."""
        self.key = key
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = directory / "gateway.log"
        self._environment = {
            **os.environ,
            "AIMA_CONFIG": os.devnull,
            "AIMA_REDIS__URL": redis_url,
            "AIMA_SIGNING_KEY": SIGNING_KEY.get_secret_value(),
            "AIMA_API__KEYS": json.dumps([api_key]),
            "AIMA_GATEWAY__PORT": str(port),
            "AIMA_GATEWAY__API": json.dumps([api_url]),
            "AIMA_GATEWAY__KEY": key,
            **settings,
        }
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def up(self) -> None:
        with self._log.open("ab") as log:
            self._process = launch("aima_api.gateway", env=self._environment, stdout=log, stderr=log)
        assert eventually(self.answers, within=UP_WITHIN), self.log()

    def answers(self) -> bool:
        with suppress(httpx2.TransportError):
            return httpx2.get(f"{self.url}/healthz", timeout=5, trust_env=False).status_code == 200
        return False

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
