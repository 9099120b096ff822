"""Records on the terminal: as an aligned table, as JSON or as YAML, with foreign text sanitized."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import click

from aima_core.logs.sanitize import json_sanitized, sanitized

Format = Literal["table", "json", "yaml"]
ListingFormat = Literal["table", "wide", "json", "yaml", "name"]
Record = Mapping[str, Any]
_EMPTY: tuple[object, ...] = (None, [], {}, "")
_USER_KEYS = ("arguments", "environment", "labels", "secrets", "digests", "targets")
"""Fields whose keys are the user's own, and are printed as they are."""
_COLOURS = {
    **dict.fromkeys(("ready", "succeeded", "live"), "green"),
    **dict.fromkeys(("running", "starting", "stopping"), "cyan"),
    **dict.fromkeys(("failed", "away"), "red"),
    **dict.fromkeys(("unknown", "queued"), "yellow"),
}


def colour_allowed() -> Literal[False] | None:
    """For click's `color`: False if the user wants no escape sequence, None to leave it to the stream."""
    return False if "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb" else None


def colours() -> bool:
    """Whether stdout is a terminal that takes colours and moving bars."""
    return sys.stdout.isatty() and colour_allowed() is None


def indented(text: str) -> str:
    """A message of one or more lines, each sanitized, the later ones indented."""
    return "\n  ".join(sanitized(line) for line in text.splitlines())


class RecordList(NamedTuple):
    """The records of a `list` command, and their columns: headings to fields of a `row`; the first one is the name."""

    records: Sequence[Record]
    columns: Mapping[str, str]
    nothing: str
    """The sentence for an empty table."""
    row: Callable[[Any], Record] = dict
    wide: Mapping[str, str] = {}
    """Further columns of `-o wide`."""

    @property
    def rows(self) -> list[Record]:
        return [self.row(record) for record in self.records]

    def print(self, output: ListingFormat) -> None:
        if output == "name":
            for record in map(self.row, self.records):
                click.echo(sanitized(record[next(iter(self.columns.values()))]))
        elif output == "wide":
            print_records(self.records, {**self.columns, **self.wide}, row=self.row, nothing=self.nothing)
        else:
            print_records(self.records, self.columns, output, row=self.row, nothing=self.nothing)


def print_records(
    records: Sequence[Record],
    columns: Mapping[str, str],
    output: Format = "table",
    *,
    row: Callable[[Any], Record] = dict,
    nothing: str = "",
) -> None:
    """A listing. `columns` maps headings to fields of a `row`; `nothing` is the sentence for an empty table."""
    if output != "table":
        print_data(list(records), output)
    elif records:
        rows = [[_cell(fields.get(field)) for field in columns.values()] for fields in map(row, records)]
        click.echo(_table(list(columns), rows))
    else:
        click.echo(nothing, err=True)


def print_record(record: Record, output: Format, *, row: Callable[[Any], Record] = dict) -> None:
    """One record, whole: a field of its `row` a line, nested fields below each other."""
    if output != "table":
        print_data(record, output)
        return
    fields = {sanitized(field): value for field, value in row(record).items() if value not in _EMPTY}
    width = max(map(len, fields), default=0)
    for field, value in fields.items():
        label = click.style(f"{field.replace('_', ' '):<{width}}", bold=True)
        for number, line in enumerate(_lines(value, literal=field in _USER_KEYS)):
            click.echo(f"{label if number == 0 else ' ' * width}  {line}")


def titled(*fields: str) -> dict[str, str]:
    """Columns whose headings are the fields' own names."""
    return {field.replace("_", " ").upper(): field for field in fields}


def print_data(data: Any, output: Format) -> None:
    if output == "json":
        click.echo(json_sanitized(json.dumps(data, indent=2, ensure_ascii=False)))
    else:
        import yaml

        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
        click.echo("\n".join(map(sanitized, text.split("\n"))), nl=False)


def age(moment: str | None, *, now: datetime | None = None) -> str | None:
    """Time since an ISO moment, in one unit: `12s`, `3m`, `5h`, `2d`."""
    if moment is None:
        return None
    seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(moment)).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def _table(headings: list[str], rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = [click.style("  ".join(map(str.ljust, headings, widths)).rstrip(), bold=True)]
    lines += ["  ".join(map(_coloured, map(str.ljust, row, widths))).rstrip() for row in rows]
    return "\n".join(lines)


def _coloured(cell: str) -> str:
    colour = _COLOURS.get(cell.rstrip())
    return click.style(cell, fg=colour) if colour else cell


def _cell(value: object) -> str:
    if type(value) is str and value and value.isprintable():  # nearly all: a listing may have 5,000 rows
        return value
    match value:
        case None | [] | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(_cell, value))
        case Mapping():
            return ", ".join(f"{sanitized(key)}={_cell(each)}" for key, each in value.items()) or "-"
        case _:
            return sanitized(value)


def _lines(value: object, *, literal: bool = False) -> list[str]:
    """Nested mappings as `key: value`, indented below their key; lists of plain values on one line."""
    match value:
        case Mapping() if value:
            names = {key: sanitized(key if literal else key.replace("_", " ")) for key in value}
            return [line for key, each in value.items() if each not in _EMPTY for line in _nested(names[key], each)]
        case [{}, *_]:
            return [_cell(each) for each in value]
        case str():
            return [sanitized(line) for line in value.splitlines()] or ["-"]
        case _:
            return [_cell(value)]


def _nested(key: str, value: object) -> list[str]:
    lines = _lines(value)
    if len(lines) == 1 and not isinstance(value, Mapping):
        return [f"{key}: {lines[0]}"]
    return [f"{key}:", *(f"  {line}" for line in lines)]
