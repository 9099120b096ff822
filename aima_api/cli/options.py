"""Options that several commands share, completion of ids from the API, and the way from a command to the API."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any, get_args

import click

from aima_api.cli.contexts import open_api
from aima_api.cli.tables import ListingFormat
from aima_api.client import Api, ApiError, path_of

COMPLETION_TIMEOUT = timedelta(seconds=1)
Command = Callable[..., Any]
Completer = Callable[[click.Context, click.Parameter, str], list[str]]
Decorator = Callable[[Command], Command]


def calls_the_api(command: Command) -> Command:
    """Passes an open `Api` as the command's first argument, and accepts `--url` and `--debug` after the command."""

    @click.option("--url", hidden=True, expose_value=False, callback=_override_url)
    @click.option("--debug", is_flag=True, hidden=True, expose_value=False)
    @click.pass_context
    @functools.wraps(command)
    def with_api(ctx: click.Context, /, *args: Any, **options: Any) -> Any:
        with open_api(ctx.obj, ca=_authority(ctx)) as api:
            return command(api, *args, **options)

    return with_api


def complete(collection: str, field: str) -> Completer:
    """Completes from one field of a collection's records. Offers nothing after a timeout of one second."""

    def complete_id(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        from aima_core.errors import AimaError

        # While completing, no command runs, so ctx.obj is unset.
        urls = ctx.params.get("url") or ctx.find_root().params.get("url")
        try:
            with open_api(urls, ca=_authority(ctx), reply_timeout=COMPLETION_TIMEOUT) as api:
                values = [item[field] for item in api.every(path_of(collection), at_most=1000)]
        except (AimaError, ApiError):
            return []
        texts = [str(text) for value in values for text in (value if isinstance(value, list) else [value])]
        return [text for text in dict.fromkeys(texts) if text.startswith(incomplete) and text.isprintable()]

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


def lists(command: Command) -> Command:
    """Prints the RecordList that the command returns, as -o says."""

    @click.option("-o", "--output", type=click.Choice(get_args(ListingFormat)), default="table", show_default=True)
    @functools.wraps(command)
    def listing(*args: Any, output: ListingFormat, **options: Any) -> None:
        command(*args, **options).print(output)

    return listing


output_option = click.option(
    "-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True
)
wait_option = click.option("--wait/--no-wait", default=False, help="Follow it until it ends; not by default.")
expires_option = click.option(
    "--expires",
    type=DurationType(),
    metavar="DURATION",
    help="How long it may wait for a host, such as 30m; 24h by default.",
)
timeout_option = click.option("--timeout", type=DurationType(), help="Give up after DURATION (implies --wait).")


def engine_option(text: str) -> Decorator:
    return click.option("--engine", metavar="E", shell_complete=complete("engines", "name"), help=text)


def hosts_option(text: str) -> Decorator:
    completer = complete("hosts", "name")
    return click.option("--host", "hosts", multiple=True, metavar="H", shell_complete=completer, help=text)


def route_option(text: str) -> Decorator:
    return click.option("--route", metavar="R", shell_complete=complete("hosts", "routes"), help=text)


only_hosts_option = hosts_option("Only on this host; repeat for several.")
_MODEL_HELP = "Model of the catalog; omit to derive it from the id."
_SERVICE_OPTIONS = (
    engine_option("Engine of the catalog; omit to derive it from the id."),
    click.option("--model", metavar="M", shell_complete=complete("models", "name"), help=_MODEL_HELP),
    click.option("--model-path", metavar="P", help="Directory of the weights on the hosts."),
    hosts_option("Run on this host; repeat for several."),
    route_option("Run on hosts of this class only, such as gb10.arm64."),
    click.option("--replicas", type=click.IntRange(1, 1000), metavar="N", help="Number of hosts to run on."),
    click.option(
        "--port", type=click.IntRange(1, 65535), metavar="P", help="Port on the host. Omit --port to have one chosen."
    ),
    click.option(
        "--pull", type=click.Choice(["missing", "always", "never"]), help="When to pull the image; as the engine says."
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


def submits_operations(command: Command) -> Command:
    """Watches or prints the operations that the command's reply enqueued, as --wait, --timeout and -o say."""

    @wait_option
    @timeout_option
    @output_option
    @calls_the_api
    @functools.wraps(command)
    def submitting(api: Api, *args: Any, wait: bool, timeout: timedelta | None, output: Any, **options: Any) -> int:
        from aima_api.cli.progress.watcher import show_submitted

        return show_submitted(api, command(api, *args, **options), wait=wait, timeout=timeout, output=output)

    return submitting


def service_options(command: Command) -> Command:
    """The options that specify a service; collected by `service_body`."""
    for option in reversed(_SERVICE_OPTIONS):
        command = option(command)
    return command


def service_body(options: dict[str, Any]) -> dict[str, Any]:
    """The request's fields for the options that were given."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    for name in given.keys() & {"expires", "grace"}:
        from aima_core.domain.units import format_duration

        given[name] = format_duration(given[name])
    if "arguments" in given:
        given["arguments"] = dict(given["arguments"])
    return given


def _authority(ctx: click.Context) -> str | None:
    ca: str | None = ctx.find_root().params.get("ca")
    return ca


def _override_url(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value:
        ctx.obj = value


def _scalar(text: str) -> object:
    if text in ("true", "false"):
        return text == "true"
    if not re.fullmatch(r"-?\d+(\.\d+)?", text):
        return text
    number = float(text) if "." in text else int(text)
    return number if str(number) == text else text  # `007` and `1.10` would reach the engine changed
