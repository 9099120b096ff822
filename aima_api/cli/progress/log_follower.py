"""Log lines of a service on the terminal: read once, or followed with reconnects, without gap or duplicate.

After a lost connection the follower requests the lines since its position again, and drops duplicates.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal
from urllib.parse import urlencode

import click

from aima_api.cli.main import INTERRUPTED
from aima_api.cli.progress.event_follower import Reconnect
from aima_api.cli.tables import colours
from aima_api.client import Api, ApiError
from aima_core.errors import ApiUnavailable
from aima_core.logs.dedup import LineDeduplicator
from aima_core.logs.protocol import MAX_TAIL, LogLine
from aima_core.logs.sanitize import sanitized

Output = Literal["text", "json"]
Query = dict[str, Any]


def read(api: Api, path: str, query: Query, show: Show) -> None:
    """Shows the lines up to now."""
    page = api.get(f"{path}?{urlencode(query, doseq=True)}")
    for note in page["notes"]:
        show.note(note)
    for item in page["items"]:
        show.line(item)


def follow(api: Api, path: str, query: Query, show: Show, *, reconnect: Reconnect | None = None) -> int:
    """Shows the lines up to now and later ones until the stream ends or Ctrl-C. Returns the exit code."""
    try:
        for event, data in LogFollower(api, path, query, reconnect=reconnect):
            if event == "line":
                show.line(data)
            else:
                show.note(data["text"])
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


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
        click.echo(host + self._time(data["at"]) + text)

    def _time(self, at: str) -> str:
        """In the time zone of this machine, as its other logs."""
        return f"{datetime.fromisoformat(at).astimezone():%Y-%m-%d %H:%M:%S}  " if self._timestamps else ""

    def note(self, text: str) -> None:
        click.echo(click.style(f"── {sanitized(text)}", fg="yellow"), err=True)


class LogFollower:
    """Lines and notes of a followed log. Retries lost connections until the reconnect times out."""

    def __init__(self, api: Api, path: str, query: Query, *, reconnect: Reconnect | None = None) -> None:
        self._api = api
        self._path = path
        self._query = {**query, "follow": "true"}
        self._reconnect = reconnect or Reconnect()
        self._connected = False
        """Once; a first connection that fails is not retried."""
        self._read: defaultdict[str, LineDeduplicator] = defaultdict(LineDeduplicator)

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Events and their data. Raises ApiError, or ApiUnavailable once the reconnect times out."""
        while True:
            try:
                for event, data in self._connect_once():
                    if event == "end":
                        return
                    yield event, data
                reason = "The API has ended the stream."
            except (ApiUnavailable, ApiError) as lost:
                if not self._connected:
                    raise
                self._reconnect.check(lost)
                reason = str(lost)
            yield "note", {"text": f"Connection lost, trying again. {reason}"}
            self._reconnect.wait()

    def _connect_once(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for read in self._read.values():
            read.rewind()
        query = urlencode({**self._query, **self._resume_point()}, doseq=True)
        with self._api.stream(f"{self._path}?{query}", after=0) as stream:
            self._connected = True
            try:
                for message in stream:
                    data: Any = message.json()
                    if message.event != "line" or self._is_new(data):
                        yield message.event, data
            finally:
                self._reconnect.received()  # a log may be silent for long: the connection counts, not its last line

    def _is_new(self, data: dict[str, Any]) -> bool:
        line = self._api.read(LogLine, data)
        return self._read[data["host"]].is_new(line.stream, line.at)

    def _resume_point(self) -> Query:
        since = min((moment for read in self._read.values() if (moment := read.since)), default=None)
        return {} if since is None else {"since": since.isoformat(), "tail": MAX_TAIL}
