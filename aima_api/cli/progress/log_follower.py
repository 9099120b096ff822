"""Log lines of a service on the terminal: read once, or followed with reconnects, without gap or duplicate.

After a lost connection the follower requests the lines since its position again, and drops duplicates.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Generator, Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any, Literal
from urllib.parse import urlencode

import click

from aima_api.cli.main import INTERRUPTED
from aima_api.cli.progress.event_follower import ConnectionLost, Reconnect
from aima_api.cli.tables import colours
from aima_api.client import Api
from aima_core.logs.dedup import LineDeduplicator
from aima_core.logs.protocol import MAX_TAIL, LogLine
from aima_core.logs.sanitize import sanitized

Output = Literal["text", "json"]
Query = dict[str, Any]
Entry = tuple[str, dict[str, Any]]


def read(api: Api, path: str, query: Query, show: Show) -> None:
    """Shows the lines up to now."""
    page = api.get(f"{path}?{urlencode(query, doseq=True)}")
    for note in page["notes"]:
        show.note(note)
    for item in page["items"]:
        show.line(item)


def follow(api: Api, path: str, query: Query, show: Show, *, reconnect: Reconnect | None = None) -> int:
    """Shows the lines up to now and later ones until the stream ends or Ctrl-C. Returns the exit code.

    Raises ApiError, or ApiUnavailable once the reconnect times out.
    """
    with suppress(KeyboardInterrupt):
        for item in LogFollower(api, path, query, reconnect=reconnect):
            match item:
                case ConnectionLost():
                    show.note(f"Connection lost, trying again. {item.reason}")
                case "line", data:
                    show.line(data)
                case _, data:
                    show.note(data["text"])
        return 0
    return INTERRUPTED


class Show:
    """Prints lines to stdout and notes to stderr."""

    def __init__(self, output: Output, hosts: list[str], *, timestamps: bool = False) -> None:
        self._json = output == "json"
        self._timestamps = timestamps
        self._prefix = max(map(len, hosts), default=0) if len(hosts) > 1 else 0
        self._colours = colours()

    def line(self, data: dict[str, Any]) -> None:
        if self._json:
            click.echo(json.dumps(data))  # ASCII only, so it needs no sanitizing
            return
        text = sanitized(data["text"])
        if self._colours and data["stream"] == "stderr":
            text = click.style(text, dim=True)
        host = f"{sanitized(data['host']):<{self._prefix}} │ " if self._prefix else ""
        at = datetime.fromisoformat(data["at"]).astimezone()  # in this machine's time zone, as its other logs
        click.echo(host + (f"{at:%Y-%m-%d %H:%M:%S}  " if self._timestamps else "") + text)

    def note(self, text: str) -> None:
        click.echo(click.style(f"── {sanitized(text)}", fg="yellow"), err=True)


class LogFollower:
    """Lines and notes of a followed log. Retries lost connections until the reconnect times out."""

    def __init__(self, api: Api, path: str, query: Query, *, reconnect: Reconnect | None = None) -> None:
        self._api = api
        self._path = path
        self._query = {**query, "follow": "true"}
        self._reconnect = reconnect or Reconnect(retries_first=False)
        self._read: defaultdict[str, LineDeduplicator] = defaultdict(LineDeduplicator)

    def __iter__(self) -> Iterator[Entry | ConnectionLost]:
        return self._reconnect.connected(self._connect_once)

    def _connect_once(self) -> Generator[Entry | ConnectionLost, None, bool]:
        """Lines and notes of one connection; returns whether the log has ended."""
        for read in self._read.values():
            read.rewind()
        query = urlencode({**self._query, **self._resume_point()}, doseq=True)
        with self._api.stream(f"{self._path}?{query}", after=0) as stream:
            try:
                for message in stream:
                    data: Any = message.json()
                    if message.event == "end":
                        return True
                    if message.event != "line" or self._is_new(data):
                        yield message.event, data
            finally:
                self._reconnect.received()  # a log may be silent for long: the connection counts, not its last line
        yield ConnectionLost("The API has ended the stream.")
        return False

    def _is_new(self, data: dict[str, Any]) -> bool:
        line = self._api.read(LogLine, data)
        return self._read[data["host"]].is_new(line.stream, line.at)

    def _resume_point(self) -> Query:
        since = min((moment for read in self._read.values() if (moment := read.since)), default=None)
        return {} if since is None else {"since": since.isoformat(), "tail": MAX_TAIL}
