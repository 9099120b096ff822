"""Watching operations until they end: several side by side, on a terminal or in lines; leaving them alone on Ctrl-C."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Protocol, Self

import click

from aima_api.cli.errors import ApiError, report, tell
from aima_api.cli.main import INTERRUPTED
from aima_api.cli.progress.event_follower import EventFollower, News
from aima_api.cli.progress.plain_display import PlainDisplay
from aima_api.cli.progress.text import doing, phase_times, success, title
from aima_api.cli.progress.tracker import OperationTracker
from aima_api.cli.tables import Format, colours, print_data
from aima_api.client import Api, path_of
from aima_core.domain.operations import Operation
from aima_core.domain.units import format_duration
from aima_core.errors import AimaError, DeadlinePassed, exit_code_of
from aima_core.logs.sanitize import sanitized

FRAME = timedelta(milliseconds=120)


class Display(Protocol):
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: Any) -> None: ...
    def show(self, track: OperationTracker, news: News) -> None: ...
    def refresh(self) -> None: ...


Heard = tuple[OperationTracker, News | Exception]


def submitted(api: Api, answer: Any, *, wait: bool, timeout: timedelta | None, output: Format) -> int:
    """Go on from the operations that a request began: watch them, or say how to. The exit code."""
    operations = [api.read(Operation, each) for each in answer["operations"]]
    if wait or timeout is not None:
        return watch(api, operations, timeout=timeout, output=output)
    if output != "table":
        print_data(answer["operations"], output)
        return 0
    for track in map(OperationTracker, operations):
        click.echo(f"{doing(track).capitalize()} of {sanitized(title(track))} is operation {track.operation.id}.")
        if track.operation.reason:
            click.echo(f"  {sanitized(track.operation.reason)}")
    if operations:
        click.echo(f"Watch it: aima operation watch {' '.join(each.id for each in operations)}", err=True)
    else:
        click.echo("There was nothing to do.", err=True)
    return 0


def watch(
    api: Api, operations: Iterable[Operation], *, timeout: timedelta | None = None, output: Format = "table"
) -> int:
    """Show what happens until all have ended. The exit code: 0, or the first failure's."""
    tracks = [OperationTracker(operation) for operation in operations]
    try:
        _watch(api, tracks, _display(tracks, output), timeout)
    except KeyboardInterrupt:
        _released(tracks)
        return INTERRUPTED
    code = _conclude(tracks, output)
    if output != "table":
        print_data([api.get(path_of("operations", track.operation.id)) for track in tracks], output)
    return code


def _display(tracks: list[OperationTracker], output: Format) -> Display:
    if output != "table":
        return PlainDisplay(several=len(tracks) > 1, file=sys.stderr)
    if not colours():
        return PlainDisplay(several=len(tracks) > 1)
    from aima_api.cli.progress.live_display import LiveDisplay

    return LiveDisplay(tracks)


def _watch(api: Api, tracks: list[OperationTracker], display: Display, timeout: timedelta | None) -> None:
    heard: queue.Queue[Heard] = queue.Queue()
    for track in tracks:
        # Daemons: a stream that is silent must not keep the command alive once nobody watches.
        threading.Thread(target=_listen, args=(api, track, heard), daemon=True).start()
    deadline = None if timeout is None else time.monotonic() + timeout.total_seconds()
    drawn_at = 0.0
    with display:
        while not all(track.ended for track in tracks):
            with contextlib.suppress(queue.Empty):
                _take(*heard.get(timeout=FRAME.total_seconds()), display)
            if time.monotonic() - drawn_at > FRAME.total_seconds():
                display.refresh()
                drawn_at = time.monotonic()
            if timeout is not None and deadline is not None and time.monotonic() > deadline:
                late = next(track for track in tracks if not track.ended)
                raise DeadlinePassed(limit=format_duration(timeout), operation=late.operation.id)


def _listen(api: Api, track: OperationTracker, heard: queue.Queue[Heard]) -> None:
    try:
        for news in EventFollower(api, track.operation.id):
            heard.put((track, news))
    except Exception as problem:  # noqa: BLE001 the thread's boundary: raised again by who watches
        heard.put((track, problem))


def _take(track: OperationTracker, news: News | Exception, display: Display) -> None:
    match news:
        case AimaError() | ApiError():
            track.problem = news
        case Exception():
            raise news
        case _:
            track.take(news)
            display.show(track, news)


def _conclude(tracks: list[OperationTracker], output: Format) -> int:
    for track in tracks:
        if track.succeeded:
            _tell_success(track, err=output != "table")
    failed = [track for track in tracks if not track.succeeded]
    if len(tracks) == 1 and failed:
        return _report(failed[0])
    codes = []
    for track in failed:
        click.echo(f"{click.style('✗', fg='red')} {sanitized(title(track))}", err=True)
        codes.append(_report(track))
    if failed:
        names = ", ".join(sanitized(track.label) for track in failed)
        click.echo(f"{len(failed)} of {len(tracks)} did not succeed: {names}.", err=True)
    return codes[0] if codes else 0


def _tell_success(track: OperationTracker, *, err: bool) -> None:
    text = f"{title(track)}: {success(track)}"
    click.echo(f"{click.style('✓', fg='green')} {sanitized(text)}", err=err)
    if times := phase_times(track):
        click.echo(click.style(f"  {times}", dim=True), err=err)


def _report(track: OperationTracker) -> int:
    if track.problem is not None:
        return report(track.problem)
    tell(track.failure)
    return exit_code_of(track.failure.code)


def _released(tracks: list[OperationTracker]) -> None:
    going = [track for track in tracks if not track.ended]
    if not going:
        return
    what = f"{doing(going[0])} goes on" if len(going) == 1 else f"{len(going)} operations go on"
    ids = " ".join(track.operation.id for track in going)
    click.echo(
        f"\nStopped watching; {what}.\n"
        f"  watch again:  aima operation watch {ids}\n"
        f"  cancel:       aima operation cancel {ids}",
        err=True,
    )
