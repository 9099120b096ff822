"""What `aima up` says: the summary once all is ready, the farewell, and its parts' log lines in one look."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from aima_api.cli.main import DEFAULT_URL
from aima_core.domain.units import format_size
from aima_core.logs.sanitize import sanitized
from aima_core.settings import Settings

_COLOURS = {"warning": "yellow", "error": "red", "critical": "red"}
_NOT_FACTS = ("event", "level", "timestamp", "exception")


class Relay:
    """Passes a part's lines on, each with the part's name; a line of JSON becomes a sentence and its facts."""

    def __init__(self, part: str) -> None:
        self._label = click.style(f"{part:<6} │ ", dim=True)

    def __call__(self, line: str) -> None:
        text, level = _readable(line)
        for each in text.splitlines():
            # A reader of ours that has gone must not stop the part, whose pipe would fill.
            with suppress(OSError):
                click.echo(self._label + click.style(sanitized(each), fg=_COLOURS.get(level)))


def summary(*, url: str, host: Mapping[str, Any], redis: str, state: Path, settings: Settings) -> str:
    rows = {
        "API": url,
        "host": _host(host),
        "runtime": _runtime(host, settings),
        "Redis": redis,
        "state": str(state),
    }
    told = "\n".join(f"  {name:<8} {sanitized(value)}" for name, value in rows.items())
    elsewhere = "" if url == DEFAULT_URL else f"\nIn another terminal first: export AIMA_URL={url}"
    return (
        f"\n{click.style('AIMA is up.', fg='green', bold=True)}\n{told}\n{elsewhere}\n"
        "`aima service start ID --wait` deploys an engine; Ctrl-C here ends AIMA.\n"
    )


def farewell(engines: int) -> str:
    if not engines:
        return "AIMA is down."
    what = "1 engine keeps" if engines == 1 else f"{engines} engines keep"
    return f"AIMA is down. {what} serving; the next `aima up` takes care of what runs."


def _host(host: Mapping[str, Any]) -> str:
    if not host:
        return "unknown"
    accelerators = [each["name"] for each in host["accelerators"]]
    has = [host["arch"], f"{host['cores']} cores", format_size(host["memory"]), *accelerators]
    return f"{host['name']}  ({', '.join(has)})"


def _runtime(host: Mapping[str, Any], settings: Settings) -> str:
    if not host:
        return "unknown"
    if settings.runtime != "auto":
        why = "asked for"
    elif host["runtime"] == "process":
        why = "native processes: no Docker Engine answers here"
    else:
        why = "a Docker Engine answers here"
    return f"{host['runtime']} {host['runtime_version']}  ({why})"


def _readable(line: str) -> tuple[str, str]:
    """A log line as text, of several lines with a traceback, and its level; only structlog's are made shorter."""
    record = _record(line)
    if "event" not in record:
        return line, ""
    facts = [f"{name}={value}" for name, value in record.items() if name not in _NOT_FACTS]
    traceback = str(record.get("exception", "")).replace("\\n", "\n")
    return "  ".join([str(record["event"]), *facts]) + f"\n{traceback}", str(record.get("level", ""))


def _record(line: str) -> Mapping[str, object]:
    """A log line's fields, if it is written as JSON or as `name=value` words; else empty."""
    with suppress(ValueError):
        if line.startswith("{"):
            return dict(json.loads(line))
        if line.startswith("timestamp="):
            return dict(word.split("=", 1) for word in shlex.split(line))
    return {}
