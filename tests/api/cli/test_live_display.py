"""The live display, frame by frame."""

from __future__ import annotations

import io
import json
from typing import Any

from api.cli.stand_in import a_layer, a_pull, an_event, an_operation
from rich.console import Console
from syrupy.assertion import SnapshotAssertion

from aima_api.cli.progress.live_display import LiveDisplay
from aima_api.cli.progress.tracker import OperationTracker
from aima_core.domain.operations import Event, Operation

MB = 1_000_000


def picture(*tracks: OperationTracker, height: int = 40) -> str:
    console = Console(
        file=io.StringIO(), width=110, height=height, color_system=None, force_terminal=True, get_time=lambda: 0.0
    )
    console.print(LiveDisplay(list(tracks), console=console).picture())
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def track(*frames: str, **fields: Any) -> OperationTracker:
    track = OperationTracker(Operation.model_validate(an_operation(**fields)), clock=lambda: 0)
    for frame in frames:
        track.apply(Event.model_validate(json.loads(frame.split("data: ")[1])))
    return track


def pulling(layers: list[dict[str, Any]], **sums: Any) -> OperationTracker:
    return track(
        an_event(1, "pulling", after=1, host="box", progress=a_pull(30 * MB, 10 * MB, 98 * MB, layers=layers, **sums))
    )


def test_a_pull_has_a_bar_per_new_layer_and_one_for_the_total(snapshot: SnapshotAssertion) -> None:
    layers = [
        a_layer("4f4fb700ef54", "exists"),
        a_layer("a1b2c3d4e5f60718", "done", downloaded=8 * MB, extracted=8 * MB, total=8 * MB),
        a_layer("b1b2c3d4e5f6", "extracting", downloaded=20 * MB, extracted=2 * MB, total=20 * MB),
        a_layer("c1b2c3d4e5f6", "downloading", downloaded=2 * MB, total=70 * MB),
        a_layer("d1b2c3d4e5f6", "waiting"),
    ]

    shown = picture(pulling(layers, rate=4.1 * MB, eta="16s"))

    assert shown == snapshot
    assert "4f4fb700ef54" not in shown


def test_finished_layers_are_summarized_below_the_active_ones() -> None:
    layers = [a_layer(f"done{number:08}", "done") for number in range(30)]
    layers.append(a_layer("busy00000000", "downloading", downloaded=1, total=2))

    shown = picture(pulling(layers))

    assert "busy00000000" in shown
    assert "done0" not in shown
    assert "30 done" in shown


def test_an_unknown_total_is_shown_as_a_lower_bound_without_a_percentage() -> None:
    shown = picture(pulling([], total_known=False))

    assert "≥ 98 MB" in shown
    assert "%" not in shown


def test_a_layer_downloaded_again_is_marked_as_such() -> None:
    assert "30 MB of 98 MB downloaded (restarted 2 ×)" in picture(pulling([], restarts=2))
    assert "restarted" not in picture(pulling([], restarts=0))


def test_while_loading_the_last_lines_of_the_engine_are_shown(snapshot: SnapshotAssertion) -> None:
    loading = track(
        an_event(1, "pulling", after=0.5, host="box"),
        an_event(2, "loading", after=9),
        an_event(
            3, "loading", after=10, name="log", lines=[f"line {number} [bold]x[/bold] \x1b[31m" for number in range(20)]
        ),
    )

    assert picture(loading) == snapshot


def test_operations_that_do_not_fit_are_counted() -> None:
    hosts = [track(an_event(1, "starting"), route=f"host.h{number}") for number in range(30)]

    shown = picture(*hosts, height=24)

    assert len(shown.splitlines()) < 24
    assert "more: " in shown
