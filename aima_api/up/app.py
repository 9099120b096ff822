"""Composition root of `aima up`: its parts, their environment, and the output on start and stop."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from aima_api.client import Api, ApiError, path_of
from aima_api.up import output
from aima_api.up.redis_server import STOP_TIMEOUT, ManagedRedis
from aima_api.up.supervisor import Part, ProcessSupervisor
from aima_core.errors import AimaError, ApiPortTaken
from aima_core.settings import Settings, load_settings
from aima_core.system.state_dir import lock, secret

START_TIMEOUT = timedelta(seconds=60)
API_STOP_TIMEOUT = timedelta(seconds=5)
WORKER_STOP_TIMEOUT = timedelta(seconds=15)
REPLY_TIMEOUT = timedelta(seconds=2)
"""Of the API node started here."""


@dataclass(frozen=True)
class Programs:
    """Commands of the API and the worker."""

    api: tuple[str, ...] = (sys.executable, "-m", "aima_api")
    worker: tuple[str, ...] = (sys.executable, "-m", "aima_worker")


def run(*, runtime: str | None, state_dir: Path | None, port: int | None, programs: Programs | None = None) -> int:
    """Runs everything until a signal. Raises AlreadyUp, ApiPortTaken, NoRedisProgram, PartEnded or BadSettings."""
    options = {"runtime": runtime, "state_dir": state_dir, "api": None if port is None else {"port": port}}
    settings = load_settings(**{name: value for name, value in options.items() if value is not None})
    directory = settings.state_dir.expanduser().resolve()
    with lock(directory, "up"):
        _Installation(settings, directory, programs or Programs()).run()
    return 0


class _Installation:
    def __init__(self, settings: Settings, directory: Path, programs: Programs) -> None:
        self._settings = settings
        self._directory = directory
        self._started_at = datetime.now(UTC)
        self._port = _free_port(settings.api.bind, settings.api.port)
        self._redis = None if "url" in settings.redis.model_fields_set else ManagedRedis(directory / "redis")
        self._url = f"http://{_local_address(settings.api.bind)}:{self._port}"
        self._engines = 0
        self._supervisor = ProcessSupervisor(list(self._parts(programs)), print_note=output.print_note)

    def run(self) -> None:
        click.echo(f"Starting AIMA, with its state in {self._directory} …")
        if self._redis is not None and self._redis.replaced:
            output.print_note(
                f"Stopped Redis (process {self._redis.replaced}) of a killed `aima up`; its data is kept."
            )
        self._supervisor.run(on_ready=self._print_ready, on_stop=self._print_stopping)
        click.echo(output.farewell(self._engines))

    def _parts(self, programs: Programs) -> Iterator[Part]:
        if self._redis is not None:
            yield Part(
                name="Redis",
                command=self._redis.command,
                environment={},
                is_ready=self._redis.is_ready,
                start_timeout=START_TIMEOUT,
                stop_timeout=STOP_TIMEOUT,
                print_line=output.Relay("redis"),
                dies_with_parent=False,  # the worker needs it while it stops
                log_tail=self._redis.last_lines,
            )
        environment = self._environment()
        yield Part(
            name="The API",
            command=programs.api,
            environment=environment,
            is_ready=lambda: self._get("/readyz") is not None,
            start_timeout=START_TIMEOUT,
            stop_timeout=API_STOP_TIMEOUT,
            print_line=output.Relay("api"),
        )
        yield Part(
            name="The worker",
            command=programs.worker,
            environment=environment,
            is_ready=lambda: self._host() is not None,
            start_timeout=START_TIMEOUT,
            stop_timeout=WORKER_STOP_TIMEOUT,
            print_line=output.Relay("worker"),
        )

    def _environment(self) -> Mapping[str, str]:
        given = self._settings.signing_key
        return {
            "AIMA_REDIS__URL": self._redis.url if self._redis else self._settings.redis.url.get_secret_value(),
            "AIMA_SIGNING_KEY": given.get_secret_value() if given else secret(self._directory / "signing.key"),
            "AIMA_STATE_DIR": str(self._directory),
            "AIMA_RUNTIME": self._settings.runtime,
            "AIMA_API__PORT": str(self._port),
            "PYTHONUNBUFFERED": "1",
        }

    def _print_ready(self) -> None:
        redis = f"managed, on 127.0.0.1:{self._redis.port}" if self._redis else "the one in `redis.url`"
        host = self._host() or {}
        click.echo(
            output.summary(url=self._url, host=host, redis=redis, state=self._directory, settings=self._settings)
        )

    def _print_stopping(self, signal_name: str) -> None:
        services = (self._get(path_of("services")) or {}).get("items", [])
        self._engines = sum(instance["state"] == "ready" for service in services for instance in service["instances"])
        parts = "the worker, the API and Redis" if self._redis else "the worker and the API"
        click.echo(f"\n{signal_name}: stopping {parts} … (Ctrl-C again kills them)")

    def _host(self) -> dict[str, Any] | None:
        """This host, once its worker has announced it since the start: an older record is stale."""
        host: dict[str, Any] | None = self._get(path_of("hosts", self._settings.host.name))
        current = host and host["live"] and datetime.fromisoformat(host["seen_at"]) >= self._started_at
        return host if current else None

    def _get(self, path: str) -> Any:
        """None while the API node is not ready."""
        keys = self._settings.api.keys
        key = keys[0].get_secret_value() if keys else None
        try:
            with Api(self._url, key=key, reply_timeout=REPLY_TIMEOUT) as api:
                return api.get(path)
        except (AimaError, ApiError):
            return None


def _free_port(address: str, port: int) -> int:
    """The given port, or any for 0. Raises ApiPortTaken."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as taken:
            raise ApiPortTaken(port=port, address=address) from taken
        return int(probe.getsockname()[1])


def _local_address(address: str) -> str:
    """The address under which this machine reaches a listener on `address`."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    return f"[{local}]" if ":" in local else local
