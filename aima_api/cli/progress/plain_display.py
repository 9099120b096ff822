"""Progress as plain lines, for logs and pipes: phases, sometimes how far a pull is, the engine's own lines."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import IO, Self

import click

from aima_api.cli.progress.event_follower import Away, News
from aima_api.cli.progress.text import amounts, pace, percent
from aima_api.cli.progress.tracker import OperationTracker, share_done
from aima_core.domain.operations import Event, Phase, PullProgress
from aima_core.logs.sanitize import sanitized

AT_MOST_EVERY = timedelta(seconds=5)
OR_EACH = 0.1


class PlainDisplay:
    """A display that only ever appends."""

    def __init__(
        self, *, several: bool, file: IO[str] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._several = several
        self._file = file
        self._clock = clock
        self._said: dict[str, tuple[Phase, str | None]] = {}
        self._away: set[str] = set()
        self._pulls: dict[str, tuple[float, float]] = {}
        """When a pull's progress was last told, and how far it was."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def refresh(self) -> None:
        """Nothing moves by itself here."""

    def show(self, track: OperationTracker, news: News) -> None:
        if isinstance(news, Away):
            self._show_away(track, news)
            return
        self._away.discard(track.operation.id)
        if not track.ended:
            self._show_phase(track)
        if news.progress is not None:
            self._show_progress(track, news.progress)
        if isinstance(news, Event):
            for line in news.lines:
                self._say(track, f"  | {line}")

    def _show_away(self, track: OperationTracker, away: Away) -> None:
        if track.operation.id not in self._away:
            self._away.add(track.operation.id)
            self._say(track, f"connection lost, trying again: {away.why}")

    def _show_phase(self, track: OperationTracker) -> None:
        now = (track.phase, track.reason)
        before = self._said.get(track.operation.id, (None, None))
        self._said[track.operation.id] = now
        if now[0] != before[0]:
            self._say(track, f"{track.phase}: {track.reason}" if track.reason else track.phase)
        elif track.reason and now != before:
            self._say(track, f"  {track.reason}")

    def _show_progress(self, track: OperationTracker, progress: PullProgress) -> None:
        share = share_done(progress) or 0.0
        told_at, told_share = self._pulls.get(track.operation.id, (float("-inf"), 0.0))
        if self._clock() - told_at < AT_MOST_EVERY.total_seconds() and share - told_share < OR_EACH:
            return
        self._pulls[track.operation.id] = self._clock(), share
        parts = (percent(progress), amounts(progress), pace(progress))
        self._say(track, "  " + ", ".join(part for part in parts if part))

    def _say(self, track: OperationTracker, text: str) -> None:
        label = f"{track.label}: " if self._several else ""
        click.echo(label + sanitized(text), file=self._file)
