"""How a failure looks on the terminal, and which exit code it has."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Sequence

import click

from aima_api.cli.tables import colour_allowed, indented
from aima_api.client import ApiError
from aima_core.errors import AimaError, Failure, exit_code_of
from aima_core.logs.sanitize import sanitized

UNWRITABLE = (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT)
"""A full or broken disk that stdout is redirected to."""


def report_error(error: Exception, *, debug: bool = False) -> int:
    """Prints it on stderr; returns its exit code."""
    failure = error.failure if isinstance(error, AimaError | ApiError) else _unforeseen(error)
    if debug:
        traceback.print_exception(error)
    print_failure(failure)
    return exit_code_of(failure.code)


def print_failure(failure: Failure, *, streamed: Sequence[str] = ()) -> None:
    """Log tail without duplicates of the lines already `streamed`, then sentence, hint and code."""
    tail = _not_streamed(failure.log_tail, streamed)
    if tail:
        _print(click.style("last log lines of the engine:", dim=True))
    for line in tail:
        _print(f"  {sanitized(line)}")
    _print(f"{click.style('error:', fg='red', bold=True)} {indented(failure.message)}")
    print_hint(failure)


def print_hint(failure: Failure) -> None:
    _print(f"{click.style('hint:', fg='cyan')} {indented(failure.hint)}")
    _print(click.style(f"code: {sanitized(failure.code)}", dim=True))


def _not_streamed(tail: Sequence[str], streamed: Sequence[str]) -> Sequence[str]:
    """The lines of `tail` after the longest overlap with the end of `streamed`."""
    for length in range(min(len(tail), len(streamed)), 0, -1):
        if list(tail[:length]) == list(streamed[-length:]):
            return tail[length:]
    return () if set(tail) <= set(streamed) else tail


def _print(text: str) -> None:
    click.echo(text, err=True, color=colour_allowed())


def _unforeseen(error: Exception) -> Failure:
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return Failure(
            code=AimaError.code,
            message=f"The output cannot be written: {error.strerror}.",
            hint="Free space where it is redirected to, or redirect it elsewhere, then run the command again.",
        )
    return Failure(
        code=AimaError.code,
        message=f"AIMA has a bug: {type(error).__name__}: {error}",
        hint="Run the command again with `--debug` for the traceback, and report it.",
    )
