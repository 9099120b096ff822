"""Options that several commands share, and the way from a command to the API."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import click

from aima_api.cli.completion import complete

Command = Callable[..., Any]


class DurationType(click.ParamType[timedelta]):
    """`30s`, `5m` or `1h30m` as a timedelta."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        from aima_core.domain.units import parse_duration

        try:
            return parse_duration(value)
        except ValueError as wrong:
            self.fail(str(wrong), param, ctx)


class Assignment(click.ParamType[tuple[str, object]]):
    """`name=value` as a pair; the value is a truth, a number or a text, whichever prints as it was written."""

    name = "name=value"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, object]:
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not (name and equals):
            self.fail(f"{value!r} is not an assignment; write it such as `max-model-len=8192`", param, ctx)
        return name, _scalar(text)


def calls_the_api(command: Command) -> Command:
    """Give the command an open `Api` as its first argument, and let it take `--url` and `--debug` itself too."""

    @click.option("--url", hidden=True, expose_value=False, callback=_url_here)
    @click.option("--debug", is_flag=True, hidden=True, expose_value=False)
    @click.pass_context
    @functools.wraps(command)
    def with_api(ctx: click.Context, /, *args: Any, **options: Any) -> Any:
        from aima_api.client import Api

        with Api(ctx.obj, key=os.environ.get("AIMA_KEY")) as api:
            return command(api, *args, **options)

    return with_api


output_option = click.option(
    "-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True
)
wait_option = click.option("--wait/--no-wait", default=False, help="Watch it until it is done; not by default.")
timeout_option = click.option("--timeout", type=DurationType(), help="Stop watching after this, such as 10m; waits.")
host_option = click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="H",
    shell_complete=complete("hosts", "name"),
    help="Only there; repeat it for several.",
)


def service_options(command: Command) -> Command:
    """What a service is made of; collected by `service_body`."""
    for option in reversed(
        (
            click.option(
                "--engine",
                metavar="E",
                shell_complete=complete("engines", "name"),
                help="Engine of the catalog; chosen by the id if left away.",
            ),
            click.option(
                "--model",
                metavar="M",
                shell_complete=complete("models", "name"),
                help="Model of the catalog; named by the id if left away.",
            ),
            click.option("--model-path", metavar="P", help="The weights' directory on the hosts."),
            click.option(
                "--host",
                "hosts",
                multiple=True,
                metavar="H",
                shell_complete=complete("hosts", "name"),
                help="Run there; repeat it for several.",
            ),
            click.option(
                "--route",
                metavar="R",
                shell_complete=complete("hosts", "routes"),
                help="Only on hosts of this class, such as gb10.arm64.",
            ),
            click.option("--replicas", type=click.IntRange(1, 1000), metavar="N", help="On so many distinct hosts."),
            click.option(
                "--port", type=click.IntRange(1, 65535), metavar="P", help="The host's port; chosen if left away."
            ),
            click.option(
                "--set",
                "arguments",
                multiple=True,
                type=Assignment(),
                metavar="ARG=VALUE",
                help="An argument of the engine; repeat it for several.",
            ),
        )
    ):
        command = option(command)
    return command


def service_body(options: dict[str, Any]) -> dict[str, Any]:
    """The request's fields for the options that were given."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    if "arguments" in given:
        given["arguments"] = dict(given["arguments"])
    return given


def _url_here(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value:
        ctx.obj = value


def _scalar(text: str) -> object:
    if text in ("true", "false"):
        return text == "true"
    if not re.fullmatch(r"-?\d+(\.\d+)?", text):
        return text
    number = float(text) if "." in text else int(text)
    return number if str(number) == text else text  # `007` and `1.10` would reach the engine as something else
