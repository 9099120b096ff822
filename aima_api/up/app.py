"""The composition root of `aima up`: which parts there are, what each is told, and what a person reads."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr

from aima_api.cli.errors import ApiError
from aima_api.client import Api, path_of
from aima_api.up import output
from aima_api.up.redis_server import OwnRedis
from aima_api.up.supervisor import Part, ProcessSupervisor
from aima_core.errors import AimaError, ApiPortTaken
from aima_core.settings import Settings, load_settings
from aima_core.system.state_dir import lock, secret

READY_WITHIN = timedelta(seconds=60)
REDIS_ENDS_WITHIN = timedelta(seconds=10)
API_ENDS_WITHIN = timedelta(seconds=5)
WORKER_ENDS_WITHIN = timedelta(seconds=15)
ASKED_FOR = timedelta(seconds=2)
"""How long one question to our own API may take."""


@dataclass(frozen=True)
class Programs:
    """What the API and the worker are run with."""

    api: tuple[str, ...] = (sys.executable, "-m", "aima_api")
    worker: tuple[str, ...] = (sys.executable, "-m", "aima_worker")


def run(*, runtime: str | None, state_dir: Path | None, port: int | None, programs: Programs | None = None) -> int:
    """Run everything until a signal. Raises AlreadyUp, ApiPortTaken, NoRedisProgram, PartEnded or BadSettings."""
    settings = load_settings(**_options(runtime, state_dir, port))
    directory = settings.state_dir.expanduser().resolve()
    with lock(directory, "up"):
        everything = _Everything(settings, directory, programs or Programs())
        everything.run()
    return 0


class _Everything:
    def __init__(self, settings: Settings, directory: Path, programs: Programs) -> None:
        self._settings = settings
        self._directory = directory
        self._began = datetime.now(UTC)
        self._port = _free_port(settings.api.bind, settings.api.port)
        self._redis = None if "url" in settings.redis.model_fields_set else OwnRedis(directory / "redis")
        self._url = f"http://{_reached_at(settings.api.bind)}:{self._port}"
        self._engines = 0
        self._supervisor = ProcessSupervisor(list(self._parts(programs)), tell=_note)

    def run(self) -> None:
        click.echo(f"Bringing AIMA up, with its state in {self._directory} …")
        self._supervisor.run(when_ready=self._say_ready, when_ending=self._say_ending)
        click.echo(output.farewell(self._engines))

    def _parts(self, programs: Programs) -> Iterator[Part]:
        if self._redis is not None:
            yield Part(
                name="Redis",
                command=self._redis.command,
                environment={},
                ready=self._redis.answers,
                ready_within=READY_WITHIN,
                ends_within=REDIS_ENDS_WITHIN,
                tell=_relay("redis"),
                dies_with_us=False,  # the worker still needs it while it ends
                own_log=self._redis.last_lines,
            )
        environment = self._environment()
        yield Part(
            name="The API",
            command=programs.api,
            environment=environment,
            ready=self._api_is_ready,
            ready_within=READY_WITHIN,
            ends_within=API_ENDS_WITHIN,
            tell=_relay("api"),
        )
        yield Part(
            name="The worker",
            command=programs.worker,
            environment=environment,
            ready=lambda: self._host() is not None,
            ready_within=READY_WITHIN,
            ends_within=WORKER_ENDS_WITHIN,
            tell=_relay("worker"),
        )

    def _environment(self) -> Mapping[str, str]:
        redis_url = self._settings.redis.url.get_secret_value() if self._redis is None else self._redis.url
        return {
            "AIMA_REDIS__URL": redis_url,
            "AIMA_SIGNING_KEY": self._signing_key().get_secret_value(),
            "AIMA_STATE_DIR": str(self._directory),
            "AIMA_RUNTIME": self._settings.runtime,
            "AIMA_API__PORT": str(self._port),
            "PYTHONUNBUFFERED": "1",
        }

    def _signing_key(self) -> SecretStr:
        return self._settings.signing_key or SecretStr(secret(self._directory / "signing.key"))

    # What our own API says ------------------------------------------------------------------------------------------

    def _api_is_ready(self) -> bool:
        return self._ask("/readyz") is not None

    def _host(self) -> dict[str, Any] | None:
        """This host, once its worker has announced itself anew."""
        host = self._ask(path_of("hosts", self._settings.host.name))
        anew = host and host["live"] and datetime.fromisoformat(host["seen_at"]) >= self._began
        return host if anew else None

    def _ask(self, path: str) -> Any:
        """None while it does not answer well."""
        try:
            with self._api() as api:
                return api.get(path)
        except (AimaError, ApiError):
            return None

    @contextmanager
    def _api(self) -> Iterator[Api]:
        keys = self._settings.api.keys
        with Api(self._url, key=keys[0].get_secret_value() if keys else None, answers_within=ASKED_FOR) as api:
            yield api

    # What a person reads --------------------------------------------------------------------------------------------

    def _say_ready(self) -> None:
        host = self._host() or {}
        redis = f"its own, on 127.0.0.1:{self._redis.port}" if self._redis else "the one given"
        click.echo(
            output.summary(url=self._url, host=host, redis=redis, state=self._directory, settings=self._settings)
        )

    def _say_ending(self, told_by: str) -> None:
        self._engines = self._engines_running()
        click.echo(f"\n{told_by}: ending the worker, the API and Redis … (Ctrl-C again kills them)")

    def _engines_running(self) -> int:
        services = (self._ask(path_of("services")) or {}).get("items", [])
        return sum(instance["state"] == "ready" for service in services for instance in service["instances"])


def _options(runtime: str | None, state_dir: Path | None, port: int | None) -> dict[str, Any]:
    options = {"runtime": runtime, "state_dir": state_dir, "api": None if port is None else {"port": port}}
    return {name: value for name, value in options.items() if value is not None}


def _free_port(address: str, port: int) -> int:
    """The port asked for, or any for 0. Raises ApiPortTaken."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as taken:
            raise ApiPortTaken(port=port, address=address) from taken
        return int(probe.getsockname()[1])


def _reached_at(address: str) -> str:
    """Where this machine reaches what listens on that address."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    return f"[{reached}]" if ":" in reached else reached


def _relay(name: str) -> output.Relay:
    return output.Relay(name)


def _note(text: str) -> None:
    click.echo(click.style(text, fg="yellow"))
