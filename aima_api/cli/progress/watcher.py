"""Watches operations until they end, a thread for each stream. Ctrl-C and a timeout end the threads, no operation."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import click

from aima_api.cli.endpoints import inference_url
from aima_api.cli.errors import print_failure, report_error
from aima_api.cli.main import INTERRUPTED
from aima_api.cli.nodes import ApiNodes
from aima_api.cli.progress.event_follower import EventFollower, Update
from aima_api.cli.progress.plain_display import PlainDisplay
from aima_api.cli.progress.tracker import OperationTracker, readable
from aima_api.cli.tables import Format, colours, print_data
from aima_api.client import Api, ApiError, path_of
from aima_core.domain.operations import Operation
from aima_core.domain.units import format_duration
from aima_core.errors import AimaError, DeadlinePassed, exit_code_of
from aima_core.logs.sanitize import sanitized

FRAME_INTERVAL = timedelta(milliseconds=120)
SHORTEST_SHOWN = timedelta(milliseconds=50)
Updates = queue.Queue[tuple[OperationTracker, Update | Exception] | str]
"""A string is a note."""


def show_submitted(api: Api, reply: Any, *, wait: bool, timeout: timedelta | None, output: Format) -> int:
    """Watches the operations that a request submitted, or prints how to. Returns the exit code."""
    operations = [api.read(Operation, each) for each in reply["operations"]]
    if not operations:
        click.echo("Unchanged: it runs as asked." if reply.get("unchanged") else "Nothing to do.", err=True)
    elif wait or timeout is not None:
        return watch(api, operations, timeout=timeout, output=output)
    if output != "table":
        print_data(reply["operations"], output)
        return 0
    for tracker in map(OperationTracker, operations):
        kind, title = tracker.operation.kind.capitalize(), sanitized(tracker.title)
        click.echo(f"{kind} of {title} submitted as operation {tracker.operation.id}.")
        if tracker.operation.reason:
            click.echo(f"  {sanitized(tracker.operation.reason)}")
    if operations:
        click.echo(f"Watch it: aima operation watch {' '.join(each.id for each in operations)}", err=True)
    return 0


def watch(api: Api, operations: Iterable[Operation], *, timeout: timedelta | None, output: Format) -> int:
    """Shows the operations until all have ended or the deadline. Returns 0, or the exit code of the first failure."""
    trackers = [OperationTracker(operation) for operation in operations]
    try:
        _watch(api, trackers, _display(trackers, output), timeout)
    except KeyboardInterrupt:
        _print_how_to_resume(trackers)
        return INTERRUPTED
    code = _conclude(api, trackers, output)
    if output != "table":
        print_data([api.get(path_of("operations", tracker.operation.id)) for tracker in trackers], output)
    return code


def ended_records(
    api: Api, operations: Iterable[Mapping[str, Any]], *, timeout: timedelta | None
) -> tuple[int, list[dict[str, Any]]]:
    """Waits until all have ended, and shows no progress; for operations whose records are the answer.

    Returns the exit code of the first failure, which is printed, and the records of the others.
    """
    trackers = [OperationTracker(api.read(Operation, each)) for each in operations]
    _watch(api, trackers, _Silent(trackers), timeout)
    failed = [tracker for tracker in trackers if not tracker.succeeded]
    codes = [_print_failed(tracker, titled=len(trackers) > 1) for tracker in failed]
    ended = [api.get(path_of("operations", tracker.operation.id)) for tracker in trackers if tracker.succeeded]
    return codes[0] if codes else 0, ended


def _display(trackers: list[OperationTracker], output: Format) -> PlainDisplay:
    """Moving on a terminal; on stderr where stdout carries data."""
    if output != "table" or not colours():
        return PlainDisplay(trackers, file=None if output == "table" else sys.stderr)
    from aima_api.cli.progress.live_display import LiveDisplay

    return LiveDisplay(trackers)


def _watch(api: Api, trackers: list[OperationTracker], display: PlainDisplay, timeout: timedelta | None) -> None:
    updates: Updates = queue.Queue()
    if isinstance(api, ApiNodes):
        api.note = updates.put  # printed by this thread, which draws the display
    for tracker in trackers:
        # Daemons: a silent stream must not keep the process alive after the watching has ended.
        threading.Thread(target=_follow, args=(api, tracker, updates), daemon=True).start()
    deadline = None if timeout is None else time.monotonic() + timeout.total_seconds()
    drawn_at = 0.0
    with _deferred_interrupt() as interrupted, display:
        while not all(tracker.ended for tracker in trackers):
            with suppress(queue.Empty):
                _apply(updates.get(timeout=FRAME_INTERVAL.total_seconds()), display)
            if interrupted:
                raise KeyboardInterrupt
            if time.monotonic() - drawn_at > FRAME_INTERVAL.total_seconds():
                display.refresh()
                drawn_at = time.monotonic()
            if timeout is not None and deadline is not None and time.monotonic() > deadline:
                late = next(tracker for tracker in trackers if not tracker.ended)
                raise DeadlinePassed(limit=format_duration(timeout), operation=late.operation.id)


class _Silent(PlainDisplay):
    """Shows notes only."""

    def show(self, tracker: OperationTracker, update: Update) -> None:
        """Shows nothing."""


@contextmanager
def _deferred_interrupt() -> Iterator[list[int]]:
    """Filled by Ctrl-C, which must not interrupt a frame: half of it would stay on the terminal."""
    interrupted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: interrupted.append(number))
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _follow(api: Api, tracker: OperationTracker, updates: Updates) -> None:
    try:
        for update in EventFollower(api, tracker.operation.id):
            updates.put((tracker, update))
    except Exception as error:  # noqa: BLE001 the thread's boundary: raised again by the watching thread
        updates.put((tracker, error))


def _apply(received: tuple[OperationTracker, Update | Exception] | str, display: PlainDisplay) -> None:
    match received:
        case str() as note:
            display.note(note)
        case tracker, (AimaError() | ApiError()) as error:
            tracker.error = error
        case _, Exception() as error:
            raise error
        case tracker, update:
            tracker.apply(update)
            display.show(tracker, update)


def _conclude(api: Api, trackers: list[OperationTracker], output: Format) -> int:
    several = len(trackers) > 1
    failed = [tracker for tracker in trackers if not tracker.succeeded]
    for tracker in trackers:
        if tracker.succeeded:
            _print_success(tracker, _reached_at(api, tracker), err=output != "table")
    codes = [_print_failed(tracker, titled=several) for tracker in failed]
    if failed and several:
        names = ", ".join(sanitized(tracker.label) for tracker in failed)
        click.echo(f"{len(failed)} of {len(trackers)} operations failed: {names}.", err=True)
    return codes[0] if codes else 0


def _reached_at(api: Api, tracker: OperationTracker) -> str | None:
    """Of an instance that has become ready: its service's URL, else its own."""
    if tracker.endpoint is None or tracker.operation.service is None:
        return None
    with suppress(AimaError, ApiError):  # the start has succeeded, also if its service is removed by now
        return inference_url(api.get(path_of("services", tracker.operation.service))) or tracker.endpoint
    return tracker.endpoint


def _print_success(tracker: OperationTracker, reached_at: str | None, *, err: bool) -> None:
    """`✓ svc-asr-x on box: ready in 12 s at http://…`, its outcome, and the times of the phases that took any."""
    times = tracker.times()
    total = readable(sum((duration for _, duration in times), timedelta()))
    endpoint = f" at {reached_at}" if reached_at else ""
    text = sanitized(f"{tracker.title}: {tracker.phase} in {total}{endpoint}")
    click.echo(f"{click.style('✓', fg='green')} {text}", err=err)
    if tracker.reason:
        click.echo(f"  {sanitized(tracker.reason)}", err=err)
    if shown := [f"{phase} {readable(duration)}" for phase, duration in times if duration >= SHORTEST_SHOWN]:
        click.echo(click.style(f"  {', '.join(shown)}", dim=True), err=err)


def _print_failed(tracker: OperationTracker, *, titled: bool) -> int:
    if titled:
        click.echo(f"{click.style('✗', fg='red')} {sanitized(tracker.title)}", err=True)
    if tracker.error is not None:
        return report_error(tracker.error)
    print_failure(tracker.failure, streamed=list(tracker.lines) if _shares_output() else ())
    return exit_code_of(tracker.failure.code)


def _shares_output() -> bool:
    """Whether stdout, where lines were streamed, and stderr are one terminal or file: else stderr must be complete."""
    try:
        return os.path.sameopenfile(1, 2)
    except OSError:
        return False


def _print_how_to_resume(trackers: list[OperationTracker]) -> None:
    active = [tracker for tracker in trackers if not tracker.ended]
    if not active:
        return
    what = f"the {active[0].operation.kind} continues" if len(active) == 1 else f"{len(active)} operations continue"
    ids = " ".join(tracker.operation.id for tracker in active)
    click.echo(
        f"Stopped watching; {what}.\n"
        f"  watch again:  aima operation watch {ids}\n"
        f"  cancel:       aima operation cancel {ids}",
        err=True,
    )
