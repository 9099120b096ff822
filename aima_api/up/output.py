"""Output of `aima up`: the summary once all is ready, the farewell, and the log lines of its parts."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from aima_core.domain.units import counted, format_size
from aima_core.logs.sanitize import sanitized
from aima_core.settings import ApiSettings, Settings

_COLOURS = {"warning": "yellow", "error": "red", "critical": "red"}
_NOT_FIELDS = ("event", "level", "timestamp", "exception")

_DEFAULT_URL = f"http://{ApiSettings().bind}:{ApiSettings().port}"


class Relay:
    """Prints the lines of a part behind its name; a JSON line as its event and fields."""

    def __init__(self, part: str) -> None:
        self._label = click.style(f"{part:<6} │ ", dim=True)

    def __call__(self, line: str) -> None:
        text, level = _readable(line)
        for each in text.splitlines():
            # A closed stdout must not stop the part, whose pipe would fill.
            with suppress(OSError):
                click.echo(self._label + click.style(sanitized(each), fg=_COLOURS.get(level)))


def print_note(text: str) -> None:
    click.echo(click.style(text, fg="yellow"))


def summary(*, url: str, host: Mapping[str, Any], redis: str, state: Path, settings: Settings) -> str:
    rows = {
        "API": url,
        "host": _host(host),
        "runtime": _runtime(host, settings),
        "Redis": redis,
        "state": str(state),
    }
    lines = "\n".join(f"  {name:<8} {sanitized(value)}" for name, value in rows.items())
    elsewhere = "" if url == _DEFAULT_URL else f"\nIn another terminal first: export AIMA_URL={url}"
    return (
        f"\n{click.style('AIMA is up.', fg='green', bold=True)}\n{lines}\n{elsewhere}\n"
        "Start an engine with `aima service start ID --wait`. Stop AIMA with Ctrl-C.\n"
    )


def farewell(engines: int) -> str:
    if not engines:
        return "AIMA is down."
    keep = "keeps" if engines == 1 else "keep"
    return f"AIMA is down. {counted(engines, 'engine')} {keep} running; the next `aima up` adopts what runs."


def _host(host: Mapping[str, Any]) -> str:
    if not host:
        return "unknown"
    accelerators = [each["name"] for each in host["accelerators"]]
    has = [host["arch"], counted(host["cores"], "core"), format_size(host["memory"]), *accelerators]
    return f"{host['name']}  ({', '.join(has)})"


def _runtime(host: Mapping[str, Any], settings: Settings) -> str:
    if not host:
        return "unknown"
    if settings.runtime != "auto":
        reason = "configured"
    elif host["runtime"] == "process":
        reason = "native processes: the Docker Engine is unavailable"
    else:
        reason = "found a Docker Engine"
    return f"{host['runtime']} {host['runtime_version']}  ({reason})"


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
