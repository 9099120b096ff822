"""Progress as lines that stay: the transcript of an operation, and its display in a pipe or a log.

The live display prints the same transcript above its moving part, so that a terminal keeps what a log file has.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import IO, NamedTuple

import click

from aima_api.cli.progress.event_follower import ConnectionLost, Update
from aima_api.cli.progress.tracker import (
    OperationTracker,
    amounts,
    fetched,
    fraction_done,
    joined,
    percent,
    rate,
    readable,
)
from aima_core.domain.models import FetchProgress
from aima_core.domain.operations import Event, Layer, LayerStep, Phase, PullProgress
from aima_core.domain.units import format_size
from aima_core.logs.sanitize import sanitized

PROGRESS_INTERVAL = timedelta(seconds=5)
PROGRESS_STEP = 0.1
"""Throttles the progress lines: one per interval of time, or of the work done if that is sooner."""
_TITLES = {
    Phase.QUEUED: "Queued",
    Phase.FETCHING: "Fetching model",
    Phase.PULLING: "Pulling image",
    Phase.STARTING: "Starting container",
    Phase.LOADING: "Loading model",
    Phase.STOPPING: "Stopping",
    Phase.REMOVING: "Removing",
}


class Line(NamedTuple):
    text: str
    layer: Layer | None = None
    """Of a line about a finished layer, which a terminal shows with its bar."""
    style: str = ""


class Transcript:
    """The permanent lines of one operation: phases, finished layers, the pull's total, and the engine's log lines."""

    def __init__(self, tracker: OperationTracker) -> None:
        self._tracker = tracker
        self._phase: Phase | None = None
        self._reason: str | None = None
        self._disconnected = False
        self._layers: set[str] = set()

    def lines(self, update: Update) -> Iterator[Line]:
        """What an update adds, after the tracker has applied it."""
        if isinstance(update, ConnectionLost):
            if not self._disconnected:
                yield Line(f"connection lost, trying again: {update.reason}", style="yellow")
            self._disconnected = True
            return
        self._disconnected = False
        if update.phase is not self._phase:
            yield from self._end_of_phase(update.phase)
        if not self._tracker.ended:
            yield from self._phase_lines()
        if update.progress is not None:
            yield from self._finished_layers(update.progress)
        if isinstance(update, Event):
            yield from (Line(f"  | {line}", style="dim") for line in update.lines)

    def _end_of_phase(self, phase: Phase) -> Iterator[Line]:
        """Of a pull or a fetch that has succeeded."""
        ended = self._phase
        if ended not in (Phase.PULLING, Phase.FETCHING) or phase in (Phase.FAILED, Phase.CANCELLED, Phase.QUEUED):
            return
        self._phase = None
        progress, fetch = self._tracker.progress, self._tracker.fetch
        what, size = "Image pull", progress.downloaded if progress else None
        if ended is Phase.FETCHING:
            what, size = "Model fetch", fetch.total if fetch else None
        amount = f"{format_size(size)} in " if size is not None else ""
        yield Line(f"{what} complete ({amount}{readable(dict(self._tracker.times())[ended])})", style="green")

    def _phase_lines(self) -> Iterator[Line]:
        phase, reason = self._tracker.phase, self._tracker.reason
        before, self._phase, self._reason = (self._phase, self._reason), phase, reason
        if before == (phase, reason):
            return
        if phase is before[0]:
            yield from ([Line(f"  {reason}")] if reason else [])
            return
        title = _TITLES.get(phase, phase.value.capitalize())
        verb = title.partition(" ")[0]
        yield Line(reason if reason and verb.lower() in reason.lower() else f"{title}: {reason}" if reason else title)

    def _finished_layers(self, progress: PullProgress) -> Iterator[Line]:
        for layer in progress.layers:
            if layer.step is LayerStep.DONE and layer.id not in self._layers:
                self._layers.add(layer.id)
                size = f"{format_size(layer.total)} / {format_size(layer.total)}  " if layer.total else ""
                duration = readable(self._tracker.layer_times[layer.id])
                yield Line(f"layer {layer.id[:12]}  {size}done in {duration}", layer=layer)


class PlainDisplay(ExitStack):
    """Appends lines only."""

    def __init__(self, trackers: Sequence[OperationTracker], *, file: IO[str] | None = None) -> None:
        super().__init__()
        self._several = len(trackers) > 1
        self._file = file
        self._transcripts = {tracker.operation.id: Transcript(tracker) for tracker in trackers}
        self._pulls: dict[str, tuple[float, float]] = {}
        """When a pull's progress was last printed, and its fraction done then."""

    def refresh(self) -> None:
        """Draws what moves; here nothing does."""

    def note(self, text: str) -> None:
        """A line about a failover, on stderr."""
        click.echo(sanitized(text), err=True)

    def show(self, tracker: OperationTracker, update: Update) -> None:
        for line in self._transcripts[tracker.operation.id].lines(update):
            self._print(tracker, f"  {line.text}" if line.layer else line.text)
        if not isinstance(update, ConnectionLost) and update.progress is not None:
            self._show_progress(tracker, update.progress, amounts(update.progress))
        if not isinstance(update, ConnectionLost) and update.fetch is not None:
            self._show_progress(tracker, update.fetch, fetched(update.fetch))

    def _show_progress(self, tracker: OperationTracker, progress: PullProgress | FetchProgress, amounts: str) -> None:
        done = fraction_done(progress) or 0.0
        printed_at, printed = self._pulls.get(tracker.operation.id, (float("-inf"), 0.0))
        now = time.monotonic()
        if now - printed_at < PROGRESS_INTERVAL.total_seconds() and done - printed < PROGRESS_STEP:
            return
        self._pulls[tracker.operation.id] = now, done
        self._print(tracker, "  " + joined(percent(progress), amounts, rate(progress)))

    def _print(self, tracker: OperationTracker, text: str) -> None:
        label = f"{tracker.label}: " if self._several else ""
        click.echo(label + sanitized(text), file=self._file)
