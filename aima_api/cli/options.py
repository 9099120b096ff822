"""Options that several commands share, completion of ids from the API, and the way from a command to the API."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import click

COMPLETION_TIMEOUT = timedelta(seconds=1)
Command = Callable[..., Any]
Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def calls_the_api(command: Command) -> Command:
    """Passes an open `Api` as the command's first argument, and accepts `--url` and `--debug` after the command."""

    @click.option("--url", hidden=True, expose_value=False, callback=_override_url)
    @click.option("--debug", is_flag=True, hidden=True, expose_value=False)
    @click.pass_context
    @functools.wraps(command)
    def with_api(ctx: click.Context, /, *args: Any, **options: Any) -> Any:
        from aima_api.client import Api

        with Api(ctx.obj, key=os.environ.get("AIMA_KEY")) as api:
            return command(api, *args, **options)

    return with_api


def complete(collection: str, field: str) -> Completer:
    """Completes from one field of a collection's records. Offers nothing if the API is unavailable or slow."""

    def complete_id(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        return [each for each in _values(ctx, collection, field) if each.startswith(incomplete) and each.isprintable()]

    return complete_id


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
    """`name=value` as a pair; the value is a bool or a number if that prints as it was typed, else a string."""

    name = "name=value"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, object]:
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not (name and equals):
            self.fail(f"{value!r} is not an assignment; write for example `max-model-len=8192`", param, ctx)
        return name, _scalar(text)


output_option = click.option(
    "-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True
)
wait_option = click.option("--wait/--no-wait", default=False, help="Follow it until it ends; not by default.")
timeout_option = click.option("--timeout", type=DurationType(), help="Give up after DURATION (implies --wait).")
host_option = click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="H",
    shell_complete=complete("hosts", "name"),
    help="Only on this host; repeat for several.",
)
_SERVICE_OPTIONS = (
    click.option(
        "--engine",
        metavar="E",
        shell_complete=complete("engines", "name"),
        help="Engine of the catalog; omit to derive it from the id.",
    ),
    click.option(
        "--model",
        metavar="M",
        shell_complete=complete("models", "name"),
        help="Model of the catalog; omit to derive it from the id.",
    ),
    click.option("--model-path", metavar="P", help="Directory of the weights on the hosts."),
    click.option(
        "--host",
        "hosts",
        multiple=True,
        metavar="H",
        shell_complete=complete("hosts", "name"),
        help="Run on this host; repeat for several.",
    ),
    click.option(
        "--route",
        metavar="R",
        shell_complete=complete("hosts", "routes"),
        help="Run on hosts of this class only, such as gb10.arm64.",
    ),
    click.option("--replicas", type=click.IntRange(1, 1000), metavar="N", help="Number of hosts to run on."),
    click.option(
        "--port", type=click.IntRange(1, 65535), metavar="P", help="Port on the host. Omit --port to have one chosen."
    ),
    click.option(
        "--set",
        "arguments",
        multiple=True,
        type=Assignment(),
        metavar="ARG=VALUE",
        help="Set an argument of the engine; repeat for several.",
    ),
)


def service_options(command: Command) -> Command:
    """The options that specify a service; collected by `service_body`."""
    for option in reversed(_SERVICE_OPTIONS):
        command = option(command)
    return command


def service_body(options: dict[str, Any]) -> dict[str, Any]:
    """The request's fields for the options that were given."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    if "arguments" in given:
        given["arguments"] = dict(given["arguments"])
    return given


def _override_url(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value:
        ctx.obj = value


def _values(ctx: click.Context, collection: str, field: str) -> list[str]:
    from aima_api.client import Api, ApiError, path_of
    from aima_core.errors import AimaError

    try:
        with Api(_url(ctx), key=os.environ.get("AIMA_KEY"), reply_timeout=COMPLETION_TIMEOUT) as api:
            values = [item[field] for item in api.every(path_of(collection), at_most=1000)]
    except (AimaError, ApiError):
        return []
    texts = (text for value in values for text in (value if isinstance(value, list) else [value]))
    return list(dict.fromkeys(map(str, texts)))


def _url(ctx: click.Context) -> str:
    """While completing, no command runs, so ctx.obj is unset."""
    from aima_api.cli.main import DEFAULT_URL

    return str(ctx.params.get("url") or ctx.find_root().params.get("url") or DEFAULT_URL)


def _scalar(text: str) -> object:
    if text in ("true", "false"):
        return text == "true"
    if not re.fullmatch(r"-?\d+(\.\d+)?", text):
        return text
    number = float(text) if "." in text else int(text)
    return number if str(number) == text else text  # `007` and `1.10` would reach the engine changed
