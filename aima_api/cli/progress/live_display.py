"""Progress on a terminal: a block per operation with its phases, a bar per layer, and the engine's last lines."""

from __future__ import annotations

from collections import Counter
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from aima_api.cli.progress.event_follower import News
from aima_api.cli.progress.text import PHASE_ENDS, downloaded, extracted, pace, percent, span, title
from aima_api.cli.progress.tracker import OperationTracker, share_done
from aima_core.domain.operations import Layer, LayerStep, Phase, PullProgress
from aima_core.domain.units import format_size
from aima_core.logs.sanitize import sanitized

LAYER_ROWS = 12
LOG_ROWS = 6
BAR_WIDTH = 24
_STEP_COLOURS = {LayerStep.DOWNLOADING: "cyan", LayerStep.EXTRACTING: "magenta", LayerStep.DONE: "green"}
_BUSY = (LayerStep.DOWNLOADING, LayerStep.EXTRACTING)


class LiveDisplay:
    """A display that redraws itself; it is gone once it ends."""

    def __init__(self, tracks: list[OperationTracker], *, console: Console | None = None) -> None:
        self._tracks = tracks
        self._console = console or Console(highlight=False)
        self._spinner = Spinner("dots", style="cyan")
        # Drawn by the thread that takes the news, so that nothing changes while it is drawn.
        self._live = Live(console=self._console, auto_refresh=False, transient=True, get_renderable=self.picture)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def refresh(self) -> None:
        self._live.refresh()

    def show(self, track: OperationTracker, news: News) -> None:
        """Nothing at once: the next refresh shows it."""

    def picture(self) -> RenderableType:
        room = max(self._console.height - 3, 4)
        shown = self._worth_showing(at_most=max(room // 5, 1))
        rows = max(room // len(shown) - 5, 0) if shown else 0
        blocks = [part for track in shown for part in self._block(track, rows=rows)]
        hidden = Counter(track.phase for track in self._tracks if track not in shown)
        if hidden:
            counts = ", ".join(f"{count} {phase}" for phase, count in hidden.items())
            blocks.append(Text(f"and {hidden.total()} more: {counts}", style="dim"))
        return Group(*blocks)

    def _worth_showing(self, *, at_most: int) -> list[OperationTracker]:
        """Those that fit, the busy ones first, each in its place."""
        by_interest = sorted(self._tracks, key=lambda track: (track.ended, track.phase is Phase.QUEUED))
        chosen = by_interest[:at_most]
        return [track for track in self._tracks if track in chosen]

    def _block(self, track: OperationTracker, *, rows: int) -> list[RenderableType]:
        parts: list[RenderableType] = [self._head(track), _phases(track)]
        if track.away:
            parts.append(_line(f"  connection lost, trying again: {track.away}", "yellow"))
        elif track.reason and not track.ended:
            parts.append(_line(f"  {track.reason}", "dim"))
        if track.phase is Phase.PULLING and track.progress is not None:
            parts.append(_pull(track.progress, rows=min(rows, LAYER_ROWS)))
        if track.phase is Phase.LOADING and rows:
            parts += [_line(f"  │ {line}", "dim") for line in list(track.lines)[-min(rows, LOG_ROWS) :]]
        return parts

    def _head(self, track: OperationTracker) -> RenderableType:
        mark = PHASE_ENDS.get(track.phase)
        colour = "green" if track.succeeded else "red"
        row = Table.grid(padding=(0, 1))
        row.add_row(Text(mark, style=colour) if mark else self._spinner, Text(title(track), style="bold"))
        return row


def _phases(track: OperationTracker) -> Text:
    text = Text(" ", no_wrap=True, overflow="ellipsis")
    for phase, taken in track.times():
        present = phase is track.phase
        text.append(f" {phase} ", style="cyan" if present else "dim")
        text.append(span(taken), style="" if present else "dim")
        text.append(" →" if not present else "", style="dim")
    return text


def _pull(progress: PullProgress, *, rows: int) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=15)
    table.add_column(width=BAR_WIDTH)
    table.add_column(no_wrap=True, overflow="ellipsis")
    layers = [layer for layer in progress.layers if layer.step is not LayerStep.EXISTS]
    shown = _fitting(layers, rows=rows)
    for layer in shown:
        table.add_row(_line(f"  {layer.id[:12]}", "dim"), _layer_bar(layer), _layer_words(layer))
    if rows and len(shown) < len(layers):
        counts = Counter(layer.step for layer in layers if layer not in shown)
        told = ", ".join(f"{count} {step}" for step, count in counts.items())
        table.add_row(_line(f"  {counts.total()} more", "dim"), "", Text(told, style="dim"))
    share = share_done(progress)
    bar = ProgressBar(
        total=1.0 if share is not None else None, completed=share or 0, width=BAR_WIDTH, pulse=share is None
    )
    table.add_row(Text("  in all", style="bold"), bar, Text(_joined(percent(progress), downloaded(progress))))
    table.add_row("", "", Text(_joined(extracted(progress), pace(progress))))
    return table


def _fitting(layers: list[Layer], *, rows: int) -> list[Layer]:
    """As many as there are rows for, the busy ones first, each in its place."""
    if len(layers) <= rows:
        return layers
    by_interest = sorted(layers, key=lambda layer: (layer.step not in _BUSY, layer.step is LayerStep.DONE))
    chosen = by_interest[: max(rows - 1, 0)]
    return [layer for layer in layers if layer in chosen]


def _layer_bar(layer: Layer) -> RenderableType:
    colour = _STEP_COLOURS.get(layer.step, "grey50")
    if layer.step is LayerStep.DONE:
        return ProgressBar(total=1, completed=1, width=BAR_WIDTH, finished_style=colour)
    if layer.total is None and layer.step in _BUSY:
        return ProgressBar(total=None, width=BAR_WIDTH, pulse=True)
    done = (layer.downloaded + layer.extracted) / 2
    return ProgressBar(total=layer.total or 1, completed=done, width=BAR_WIDTH, complete_style=colour)


def _layer_words(layer: Layer) -> Text:
    size = "" if layer.total is None else format_size(layer.total)
    match layer.step:
        case LayerStep.DOWNLOADING | LayerStep.EXTRACTING:
            done = layer.downloaded if layer.step is LayerStep.DOWNLOADING else layer.extracted
            return Text(f"{layer.step} {format_size(done)}" + (f" of {size}" if size else ""))
        case _:
            return Text(f"{layer.step} {size}".rstrip(), style="dim")


def _joined(*words: str) -> str:
    return ", ".join(word for word in words if word)


def _line(text: str, style: str) -> Text:
    return Text(sanitized(text), style=style, no_wrap=True, overflow="ellipsis")
