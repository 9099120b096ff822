"""How a failure looks on the terminal, and which exit code it gives."""

from __future__ import annotations

import traceback

import click

from aima_api.cli.tables import sentence
from aima_core.errors import AimaError, Failure, exit_code_of
from aima_core.logs.sanitize import sanitized


class ApiError(Exception):
    """The API answered with a failure."""

    def __init__(self, failure: Failure, *, status: int) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.passing = status >= 500 or status == 429
        """It may be another matter in a moment."""


def report(problem: Exception, *, debug: bool = False) -> int:
    """Tell of it on stderr; the exit code that goes with it."""
    failure = problem.failure if isinstance(problem, AimaError | ApiError) else _our_mistake(problem)
    if debug:
        traceback.print_exception(problem)
    tell(failure)
    return exit_code_of(failure.code)


def tell(failure: Failure) -> None:
    """The failure on stderr: the container's last lines, then sentence, hint and code."""
    if failure.log_tail:
        click.echo(click.style("the engine's last lines:", dim=True), err=True)
    for line in failure.log_tail:
        click.echo(f"  {sanitized(line)}", err=True)
    click.echo(f"{click.style('error:', fg='red', bold=True)} {sentence(failure.message)}", err=True)
    click.echo(f"{click.style('hint:', fg='cyan')} {sentence(failure.hint)}", err=True)
    click.echo(click.style(f"code: {sanitized(failure.code)}", dim=True), err=True)


def _our_mistake(problem: Exception) -> Failure:
    return Failure(
        code=AimaError.code,
        message=f"AIMA made a mistake: {type(problem).__name__}: {problem}",
        hint="The same command with `--debug` shows where; please report it.",
    )
