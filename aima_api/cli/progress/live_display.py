"""Progress on a terminal: the transcript, which stays, above a moving snapshot of phases and unfinished layers."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Self, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from aima_api.cli.progress.event_follower import Update
from aima_api.cli.progress.plain_display import PlainDisplay
from aima_api.cli.progress.tracker import (
    OperationTracker,
    downloaded,
    fraction_done,
    from_others,
    joined,
    percent,
    rate,
    readable,
)
from aima_core.domain.models import FetchProgress
from aima_core.domain.operations import Layer, LayerStep, Phase, PullProgress
from aima_core.domain.units import format_size
from aima_core.logs.sanitize import sanitized

LAYER_ROWS = 12
BAR_WIDTH = 24
FINISHED_BAR = f"[{'=' * 20}]"
_STEP_COLOURS = {LayerStep.DOWNLOADING: "cyan", LayerStep.EXTRACTING: "magenta"}
_ACTIVE = (LayerStep.DOWNLOADING, LayerStep.EXTRACTING)
_ENDS = {
    Phase.READY: "✓",
    Phase.PULLED: "✓",
    Phase.STOPPED: "✓",
    Phase.REMOVED: "✓",
    Phase.DONE: "✓",
    Phase.FAILED: "✗",
    Phase.CANCELLED: "✗",
}

Item = TypeVar("Item")


class LiveDisplay(PlainDisplay):
    def __init__(self, trackers: list[OperationTracker], *, console: Console | None = None) -> None:
        super().__init__(trackers)
        self._trackers = trackers
        self._console = console or Console(highlight=False)
        self._spinner = Spinner("dots", style="cyan")
        # Drawn by the thread that applies the updates, so that nothing changes during a frame.
        self._live = Live(console=self._console, auto_refresh=False, transient=True, get_renderable=self.picture)

    def __enter__(self) -> Self:
        self.enter_context(_interrupt_not_echoed())
        self.callback(self._live.stop)
        self._live.start(refresh=True)
        return self

    def refresh(self) -> None:
        self._live.refresh()

    def note(self, text: str) -> None:
        if sys.stderr.isatty():  # the same terminal: a line of its own would shift the moving part
            self._console.print(Text(sanitized(text), style="yellow"), soft_wrap=True)
        else:
            super().note(text)

    def show(self, tracker: OperationTracker, update: Update) -> None:
        for line in self._transcripts[tracker.operation.id].lines(update):
            if not (self._several and line.layer):
                label = Text(f"{sanitized(tracker.label)} │ ", style="dim") if self._several else Text()
                bar = Text.assemble("  ", (FINISHED_BAR, "green"), "  ") if line.layer else Text()
                self._console.print(label + bar + Text(sanitized(line.text), style=line.style), soft_wrap=True)

    def picture(self) -> RenderableType:
        """The moving part, within the terminal's height."""
        height = max(self._console.height - 3, 4)
        shown = _most_active(
            self._trackers, max(height // 5, 1), idle=lambda tracker: (tracker.ended, tracker.phase is Phase.QUEUED)
        )
        rows = max(height // len(shown) - 5, 0) if shown else 0
        blocks = [part for tracker in shown for part in self._block(tracker, rows=rows)]
        hidden = Counter(tracker.phase for tracker in self._trackers if tracker not in shown)
        if hidden:
            counts = ", ".join(f"{count} {phase}" for phase, count in hidden.items())
            blocks.append(Text(f"and {hidden.total()} more: {counts}", style="dim"))
        return Group(*blocks)

    def _block(self, tracker: OperationTracker, *, rows: int) -> list[RenderableType]:
        mark = _ENDS.get(tracker.phase)
        head = Table.grid(padding=(0, 1))
        head.add_row(
            Text(mark, style="green" if tracker.succeeded else "red") if mark else self._spinner,
            _line(tracker.title, "bold"),
        )
        parts: list[RenderableType] = [head, _phases(tracker)]
        if tracker.connection_lost:
            parts.append(_line(f"  connection lost, trying again: {tracker.connection_lost}", "yellow"))
        elif tracker.reason and not tracker.ended:
            parts.append(_line(f"  {tracker.reason}", "dim"))
        if tracker.phase is Phase.PULLING and tracker.progress is not None:
            parts.append(_pull(tracker.progress, rows=min(rows, LAYER_ROWS)))
        if tracker.phase is Phase.FETCHING and tracker.fetch is not None:
            parts.append(_fetch(tracker.fetch))
        return parts


@contextmanager
def _interrupt_not_echoed() -> Iterator[None]:
    """Turns off the terminal's `^C`, which would move the cursor and leave a line of the moving part behind."""
    import termios

    with ExitStack() as restore:
        with suppress(termios.error, ValueError, OSError):
            before = termios.tcgetattr(sys.stdin)
            quiet = [*before[:3], before[3] & ~termios.ECHOCTL, *before[4:]]
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, quiet)
            restore.callback(termios.tcsetattr, sys.stdin, termios.TCSADRAIN, before)
        yield


def _phases(tracker: OperationTracker) -> Text:
    text = Text(" ", no_wrap=True, overflow="ellipsis")
    for phase, duration in tracker.times():
        present = phase is tracker.phase
        text.append(f" {phase} ", style="cyan" if present else "dim")
        text.append(readable(duration), style="" if present else "dim")
        text.append(" →" if not present else "", style="dim")
    return text


def _pull(progress: PullProgress, *, rows: int) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=15)
    table.add_column(width=BAR_WIDTH)
    table.add_column(no_wrap=True, overflow="ellipsis")
    unfinished = [layer for layer in progress.layers if layer.step not in (LayerStep.EXISTS, LayerStep.DONE)]
    fitting = rows if len(unfinished) <= rows else max(rows - 1, 0)
    shown = _most_active(unfinished, fitting, idle=lambda layer: layer.step not in _ACTIVE)
    for layer in shown:
        table.add_row(_line(f"  {layer.id[:12]}", "dim"), _layer_bar(layer), _layer_text(layer))
    hidden = Counter(layer.step for layer in progress.layers if layer not in shown and layer.step != LayerStep.EXISTS)
    if rows and hidden:
        counts = ", ".join(f"{count} {step}" for step, count in hidden.items())
        table.add_row(_line(f"  {hidden.total()} more", "dim"), "", Text(counts, style="dim"))
    done = fraction_done(progress)
    bar = ProgressBar(total=None if done is None else 1.0, completed=done or 0, width=BAR_WIDTH, pulse=done is None)
    table.add_row(Text("  total", style="bold"), bar, Text(joined(percent(progress), downloaded(progress))))
    table.add_row("", "", Text(joined(f"{format_size(progress.extracted)} extracted", rate(progress))))
    return table


def _fetch(progress: FetchProgress) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=15)
    table.add_column(width=BAR_WIDTH)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for name, done in (("received", progress.received), ("verified", progress.verified)):
        bar = ProgressBar(total=progress.total or 1, completed=done, width=BAR_WIDTH)
        amount = f"{format_size(done)} of {format_size(progress.total)}"
        more = percent(progress) if name == "received" else f"{progress.files_done} of {progress.files} files"
        table.add_row(Text(f"  {name}", style="bold"), bar, Text(joined(more, amount)))
    table.add_row("", "", _line(joined(rate(progress) or progress.waits_for or "", from_others(progress)), ""))
    return table


def _most_active(items: Sequence[Item], count: int, *, idle: Callable[[Item], Any]) -> list[Item]:
    """The `count` least idle items, in their order."""
    chosen = sorted(items, key=idle)[:count]
    return [item for item in items if item in chosen]


def _layer_bar(layer: Layer) -> RenderableType:
    if layer.total is None and layer.step in _ACTIVE:
        return ProgressBar(total=None, width=BAR_WIDTH, pulse=True)
    done = (layer.downloaded + layer.extracted) / 2
    colour = _STEP_COLOURS.get(layer.step, "grey50")
    return ProgressBar(total=layer.total or 1, completed=done, width=BAR_WIDTH, complete_style=colour)


def _layer_text(layer: Layer) -> Text:
    size = "" if layer.total is None else format_size(layer.total)
    if layer.step not in _ACTIVE:
        return Text(f"{layer.step} {size}".rstrip(), style="dim")
    done = layer.downloaded if layer.step is LayerStep.DOWNLOADING else layer.extracted
    return Text(f"{layer.step} {format_size(done)}" + (f" of {size}" if size else ""))


def _line(text: str, style: str) -> Text:
    return Text(sanitized(text), style=style, no_wrap=True, overflow="ellipsis")
