"""Composition root of `aima up`: its parts, their environment, and what it prints of them and of itself."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr

from aima_api.client import Api, ApiError, path_of, pinning
from aima_api.up.detached import LOCK, LOG, RotatingLog, announce
from aima_api.up.redis_server import STOP_TIMEOUT, ManagedRedis
from aima_api.up.supervisor import Part, ProcessSupervisor
from aima_core.domain.units import counted, format_size
from aima_core.errors import AimaError
from aima_core.logs.sanitize import sanitized
from aima_core.settings import ApiSettings, ListenerSettings, Settings, load_settings
from aima_core.system.loopback import find_port
from aima_core.system.state_dir import lock, secret
from aima_core.trust.keys import SigningKey

API_STOP_TIMEOUT = timedelta(seconds=5)
GATEWAY_STOP_TIMEOUT = timedelta(seconds=10)
"""For the answers in progress."""
WORKER_STOP_TIMEOUT = timedelta(seconds=15)
REPLY_TIMEOUT = timedelta(seconds=2)
"""Of the API node and the gateway started here."""
_COLOURS = {"warning": "yellow", "error": "red", "critical": "red"}
_NOT_FIELDS = ("event", "level", "timestamp", "exception")


@dataclass(frozen=True)
class Programs:
    """Commands of the API, the gateway and the worker."""

    api: tuple[str, ...] = (sys.executable, "-m", "aima_api")
    gateway: tuple[str, ...] = (sys.executable, "-m", "aima_api.gateway")
    worker: tuple[str, ...] = (sys.executable, "-m", "aima_worker")


def run(
    *,
    runtime: str | None,
    state_dir: Path | None,
    port: int | None,
    gateway_port: int | None = None,
    detached: bool = False,
    programs: Programs | None = None,
) -> int:
    """Runs everything until a signal. Raises AlreadyUp, ApiPortTaken, NoRedisProgram, PartEnded or BadSettings.

    `detached` writes to the log of the state directory, which is rotated, instead of stdout.
    """
    options = {
        "runtime": runtime,
        "state_dir": state_dir,
        "api": None if port is None else {"port": port},
        "gateway": None if gateway_port is None else {"port": gateway_port},
    }
    settings = load_settings(**{name: value for name, value in options.items() if value is not None})
    directory = directory_of(settings)
    log = directory / LOG if detached else None
    with lock(directory, LOCK), redirect_stdout(RotatingLog(log) if log else sys.stdout):
        _Installation(settings, directory, programs or Programs(), log=log).run()
    return 0


def directory_of(settings: Settings) -> Path:
    return settings.state_dir.expanduser().resolve()


class _Installation:
    def __init__(self, settings: Settings, directory: Path, programs: Programs, *, log: Path | None = None) -> None:
        self._settings = settings
        self._directory = directory
        self._log = log
        self._started_at = datetime.now(UTC)
        self._port = find_port(settings.api.bind, settings.api.port)
        bind, port = settings.gateway.bind, settings.gateway.port
        self._gateway_port = find_port(bind, port, what="gateway", section="gateway", option="--gateway-port")
        self._redis = None if "url" in settings.redis.model_fields_set else ManagedRedis(directory / "redis")
        self._url = _local_url(settings.api, self._port)
        self._gateway_url = _local_url(settings.gateway, self._gateway_port)
        self._engines = 0
        self._supervisor = ProcessSupervisor(list(self._parts(programs)), print_note=_print_note)

    def run(self) -> None:
        click.echo(f"Starting AIMA, with its state in {self._directory} …")
        if self._redis is not None and self._redis.replaced:
            _print_note(f"Stopped Redis (process {self._redis.replaced}) of a killed `aima up`; its data is kept.")
        self._supervisor.run(on_ready=self._print_ready, on_stop=self._print_stopping)
        kept = f"{counted(self._engines, 'engine')} {'keeps' if self._engines == 1 else 'keep'} running"
        click.echo("AIMA is down." + (f" {kept}; the next `aima up` adopts what runs." if self._engines else ""))

    def _parts(self, programs: Programs) -> Iterator[Part]:
        if self._redis is not None:
            yield Part(
                name="Redis",
                command=self._redis.command,
                environment={},
                is_ready=self._redis.is_ready,
                stop_timeout=STOP_TIMEOUT,
                print_line=partial(_print_line, "redis"),
                dies_with_parent=False,  # the worker needs it while it stops
                log_tail=self._redis.last_lines,
            )
        environment = self._environment()
        yield Part(
            name="The API",
            command=programs.api,
            environment=environment,
            is_ready=lambda: self._get("/readyz") is not None,
            stop_timeout=API_STOP_TIMEOUT,
            print_line=partial(_print_line, "api"),
        )
        yield Part(
            name="The gateway",
            command=programs.gateway,
            environment={**self._verifying(environment), **self._certifying()},
            is_ready=lambda: self._get("/readyz", of_gateway=True) is not None,
            stop_timeout=GATEWAY_STOP_TIMEOUT,
            print_line=partial(_print_line, "gateway"),
        )
        yield Part(
            name="The worker",
            command=programs.worker,
            environment=environment,
            is_ready=lambda: self._host() is not None,
            stop_timeout=WORKER_STOP_TIMEOUT,
            print_line=partial(_print_line, "worker"),
        )

    def _environment(self) -> Mapping[str, str]:
        given = self._settings.signing_key
        return {
            "AIMA_REDIS__URL": self._redis.url if self._redis else self._settings.redis.url.get_secret_value(),
            "AIMA_SIGNING_KEY": given.get_secret_value() if given else secret(self._directory / "signing.key"),
            "AIMA_STATE_DIR": str(self._directory),
            "AIMA_RUNTIME": self._settings.runtime,
            "AIMA_API__PORT": str(self._port),
            "AIMA_GATEWAY__PORT": str(self._gateway_port),
            "PYTHONUNBUFFERED": "1",
        }

    def _verifying(self, environment: Mapping[str, str]) -> Mapping[str, str]:
        """Of a part that verifies what the API node signs, and signs nothing."""
        public = SigningKey(SecretStr(environment["AIMA_SIGNING_KEY"])).public
        others = {name: value for name, value in environment.items() if name != "AIMA_SIGNING_KEY"}
        return {**others, "AIMA_TRUSTED_KEYS": json.dumps([*self._settings.trusted_keys, public])}

    def _certifying(self) -> Mapping[str, str]:
        """For the gateway: this API node certifies its key, unless the settings name others."""
        if self._settings.gateway.api or self._settings.api.tls.certificate:
            return {}
        keys = [each for each in (self._settings.gateway.key, *self._settings.api.keys) if each]
        given = {"AIMA_GATEWAY__KEY": keys[0].get_secret_value()} if keys else {}
        return {"AIMA_GATEWAY__API": json.dumps([self._url]), **given}

    def _print_ready(self) -> None:
        host = self._host()
        rows = {
            "API": self._url,
            "gateway": f"{self._gateway_url}/v1",
            "host": _describe_host(host) if host else "unknown",
            "runtime": _describe_runtime(host, configured=self._settings.runtime != "auto") if host else "unknown",
            "Redis": f"managed, on 127.0.0.1:{self._redis.port}" if self._redis else "the one in `redis.url`",
            "state": str(self._directory),
        }
        lines = "\n".join(f"  {name:<8} {sanitized(value)}" for name, value in rows.items())
        default_url = f"http://{ApiSettings().bind}:{ApiSettings().port}"
        elsewhere = "" if self._url == default_url else f"\nIn another terminal first: export AIMA_URL={self._url}"
        click.echo(
            f"\n{click.style('AIMA is up.', fg='green', bold=True)}\n{lines}\n{elsewhere}\n"
            f"Start an engine with `aima service start ID --wait`. Stop AIMA with {self._stopped_by()}.\n"
        )
        announce(self._directory, self._url, log=self._log)

    def _print_stopping(self, signal_name: str) -> None:
        services = (self._get(path_of("services")) or {}).get("items", [])
        self._engines = sum(instance["state"] == "ready" for service in services for instance in service["instances"])
        parts = "the worker, the gateway, the API" + (" and Redis" if self._redis else "")
        click.echo(f"\n{signal_name}: stopping {parts} …" + (" (Ctrl-C again kills them)" if self._log is None else ""))

    def _stopped_by(self) -> str:
        return "Ctrl-C" if self._log is None else "`aima down`"

    def _host(self) -> dict[str, Any] | None:
        """This host, once its worker has announced it since the start: an older record is stale."""
        host: dict[str, Any] | None = self._get(path_of("hosts", self._settings.host.name))
        current = host and host["live"] and datetime.fromisoformat(host["seen_at"]) >= self._started_at
        return host if current else None

    def _get(self, path: str, *, of_gateway: bool = False) -> Any:
        """None while the API node, or the gateway, is not ready."""
        keys = self._settings.api.keys
        key = keys[0].get_secret_value() if keys else None
        url, listener = (self._gateway_url, self._settings.gateway) if of_gateway else (self._url, self._settings.api)
        try:
            tls = pinning(listener.tls.certificate) if listener.tls.certificate else None
            with Api(url, key=key, tls=tls, reply_timeout=REPLY_TIMEOUT) as api:
                return api.get(path)
        except (AimaError, ApiError):
            return None


def _local_url(listener: ListenerSettings, port: int) -> str:
    """Under which this machine reaches a listener."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listener.bind, listener.bind)
    scheme = "https" if listener.tls.certificate else "http"
    return f"{scheme}://{f'[{local}]' if ':' in local else local}:{port}"


def _print_note(text: str) -> None:
    click.echo(click.style(text, fg="yellow"))


def _describe_host(host: Mapping[str, Any]) -> str:
    accelerators = [each["name"] for each in host["accelerators"]]
    has = [host["arch"], counted(host["cores"], "core"), format_size(host["memory"]), *accelerators]
    return f"{host['name']}  ({', '.join(has)})"


def _describe_runtime(host: Mapping[str, Any], *, configured: bool) -> str:
    if configured:
        reason = "configured"
    elif host["runtime"] == "process":
        reason = "native processes: the Docker Engine is unavailable"
    else:
        reason = "found a Docker Engine"
    return f"{host['runtime']} {host['runtime_version']}  ({reason})"


def _print_line(part: str, line: str) -> None:
    """A part's log line behind the part's name; a JSON line as its event and fields."""
    text, level = _readable(line)
    for each in text.splitlines():
        with suppress(OSError):  # a closed stdout must not stop the part, whose pipe would fill
            click.echo(click.style(f"{part:<7} │ ", dim=True) + click.style(sanitized(each), fg=_COLOURS.get(level)))


def _readable(line: str) -> tuple[str, str]:
    """A log line as text, with the lines of its traceback, and its level; lines that are no records as they are."""
    record = _record(line)
    if "event" not in record:
        return line, ""
    fields = [f"{name}={value}" for name, value in record.items() if name not in _NOT_FIELDS]
    traceback = str(record.get("exception", "")).replace("\\n", "\n")
    return "  ".join([str(record["event"]), *fields]) + f"\n{traceback}", str(record.get("level", ""))


def _record(line: str) -> Mapping[str, object]:
    """The fields of a line of JSON or of `name=value` words; else empty."""
    with suppress(ValueError):
        if line.startswith("{"):
            return dict(json.loads(line))
        if line.startswith("timestamp="):
            return dict(word.split("=", 1) for word in shlex.split(line))
    return {}
