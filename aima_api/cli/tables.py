"""Records on the terminal: as an aligned table, as JSON or as YAML, with foreign text made harmless."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import click

from aima_core.logs.sanitize import json_sanitized, sanitized

Format = Literal["table", "json", "yaml"]
Record = Mapping[str, Any]
_COLOURS = {
    "ready": "green",
    "succeeded": "green",
    "running": "cyan",
    "starting": "cyan",
    "stopping": "cyan",
    "live": "green",
    "failed": "red",
    "away": "red",
    "unknown": "yellow",
    "queued": "yellow",
}


def sentence(text: str) -> str:
    """A message that may have several lines, each harmless, the later ones indented."""
    return "\n  ".join(sanitized(line) for line in text.splitlines())


def colours() -> bool:
    """Whether stdout is a terminal that wants colours and moving bars."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def print_records(records: Sequence[Record], columns: Mapping[str, str], output: Format, *, nothing: str) -> None:
    """A listing. `columns` maps headings to fields; `nothing` is the sentence for an empty table."""
    if output != "table":
        print_data(list(records), output)
    elif records:
        _print_table(list(columns), [[_cell(record.get(field)) for field in columns.values()] for record in records])
    else:
        click.echo(nothing, err=True)


def print_record(record: Record, output: Format) -> None:
    """One record, whole: a field a line."""
    if output != "table":
        print_data(record, output)
        return
    told = {field.replace("_", " "): value for field, value in record.items() if value not in (None, [], {}, "")}
    width = max(map(len, told), default=0)
    for field, value in told.items():
        label = click.style(f"{field:<{width}}", bold=True)
        for number, line in enumerate(_lines(value)):
            click.echo(f"{label if number == 0 else ' ' * width}  {line}")


def print_data(data: Any, output: Format) -> None:
    if output == "json":
        click.echo(json_sanitized(json.dumps(data, indent=2, ensure_ascii=False)))
    else:
        import yaml

        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
        click.echo("\n".join(map(sanitized, text.split("\n"))), nl=False)


def age(moment: str | None, *, now: datetime | None = None) -> str | None:
    """How long ago an ISO moment was, in one unit: `12s`, `3m`, `5h`, `2d`."""
    if moment is None:
        return None
    seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(moment)).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def _print_table(headings: list[str], rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    click.echo(click.style(_aligned(headings, widths), bold=True))
    for row in rows:
        padded = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
        click.echo("  ".join(_coloured(cell) for cell in padded).rstrip())


def _aligned(cells: Iterable[str], widths: Iterable[int]) -> str:
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def _coloured(cell: str) -> str:
    colour = _COLOURS.get(cell.strip())
    return click.style(cell, fg=colour) if colour else cell


def _cell(value: object) -> str:
    match value:
        case None | [] | "":
            return "-"
        case Mapping() if not value:  # `{}` as a pattern would match every mapping
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(_cell, value))
        case Mapping():
            return ", ".join(f"{key}={_cell(each)}" for key, each in value.items())
        case _:
            return sanitized(value)


def _lines(value: object) -> list[str]:
    match value:
        case [{}, *_]:
            return [f"{_cell(each)}" for each in value]
        case Mapping() if value:
            return [f"{sanitized(key)}: {_cell(each)}" for key, each in value.items()]
        case str():
            return [sanitized(line) for line in value.splitlines()] or ["-"]
        case _:
            return [_cell(value)]
