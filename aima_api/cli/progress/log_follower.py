"""What a service's containers say, on the terminal: read once, or followed across lost connections."""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, Literal
from urllib.parse import urlencode

import click

from aima_api.cli.errors import ApiError
from aima_api.cli.main import INTERRUPTED
from aima_api.cli.progress.event_follower import FIRST_DELAY as FIRST_REST
from aima_api.cli.progress.event_follower import MAX_DELAY as LONGEST_REST
from aima_api.cli.progress.event_follower import RECONNECT_TIMEOUT as PATIENCE
from aima_api.cli.tables import colours
from aima_api.client import Api
from aima_core.errors import ApiUnavailable
from aima_core.logs.dedup import LineDeduplicator
from aima_core.logs.protocol import MAX_TAIL, LogLine
from aima_core.logs.sanitize import sanitized

Output = Literal["text", "json"]
Asked = dict[str, Any]


def read(api: Api, path: str, asked: Asked, show: Show) -> None:
    """What was said until now."""
    answer = api.get(f"{path}?{urlencode(asked, doseq=True)}")
    for note in answer["notes"]:
        show.note(note)
    for item in answer["items"]:
        show.line(item)


def follow(api: Api, path: str, asked: Asked, show: Show) -> int:
    """That, and what is said from now on, until it is over or somebody interrupts. The exit code."""
    try:
        for event, data in LogFollower(api, path, asked):
            if event == "line":
                show.line(data)
            else:
                show.note(data["text"])
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


class Show:
    """Lines to stdout, sentences about them to stderr."""

    def __init__(self, output: Output, hosts: list[str]) -> None:
        self._json = output == "json"
        self._prefix = max(map(len, hosts), default=0) if len(hosts) > 1 else 0
        self._colours = colours()

    def line(self, data: dict[str, Any]) -> None:
        if self._json:
            click.echo(json.dumps(data))  # ASCII only, and so harmless
            return
        text = sanitized(data["text"])
        if self._colours and data["stream"] == "stderr":
            text = click.style(text, dim=True)
        host = f"{sanitized(data['host']):<{self._prefix}} │ " if self._prefix else ""
        click.echo(host + text)

    def note(self, text: str) -> None:
        click.echo(click.style(f"── {sanitized(text)}", fg="yellow"), err=True)


class LogFollower:
    """Each line once, in order, over as many connections as it takes."""

    def __init__(
        self,
        api: Api,
        path: str,
        asked: Asked,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._path = path
        self._asked = {**asked, "follow": "true"}
        self._sleep = sleep
        self._clock = clock
        self._read: defaultdict[str, LineDeduplicator] = defaultdict(LineDeduplicator)
        self._failed = 0
        self._heard_at: float | None = None

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Lines and notes. Raises Refused, and ApiUnavailable where there is no API, or none any more."""
        while True:
            try:
                for event, data in self._one_connection():
                    if event == "end":
                        return
                    yield event, data
                why = "The API has ended the stream."
            except (ApiUnavailable, ApiError) as lost:
                self._check_patience(lost)
                why = str(lost)
            yield "note", {"text": f"Connection lost, trying again. {why}"}
            self._rest()

    def _one_connection(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for read in self._read.values():
            read.rewind()
        query = urlencode({**self._asked, **self._where_it_was_left()}, doseq=True)
        with self._api.stream(f"{self._path}?{query}", after=0) as stream:
            self._heard_at = self._clock()
            for message in stream:
                self._failed, self._heard_at = 0, self._clock()
                data: Any = message.json()
                if message.event != "line" or self._is_new(data):
                    yield message.event, data

    def _is_new(self, data: dict[str, Any]) -> bool:
        line = self._api.read(LogLine, data)
        return self._read[data["host"]].is_new(line.stream, line.at)

    def _where_it_was_left(self) -> Asked:
        since = min((moment for read in self._read.values() if (moment := read.since)), default=None)
        return {} if since is None else {"since": since.isoformat(), "tail": MAX_TAIL}

    def _check_patience(self, lost: ApiUnavailable | ApiError) -> None:
        for_good = isinstance(lost, ApiError) and not lost.transient
        if for_good or self._heard_at is None or self._clock() - self._heard_at > PATIENCE.total_seconds():
            raise lost

    def _rest(self) -> None:
        longest = min(FIRST_REST * 2**self._failed, LONGEST_REST)
        self._failed = min(self._failed + 1, 10)
        self._sleep(longest.total_seconds() * random.uniform(0.5, 1))
