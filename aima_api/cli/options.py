"""Options that several commands share, completion of ids from the API, and the way from a command to the API."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar, get_args

import click

from aima_api.cli.contexts import open_api
from aima_api.cli.tables import ListingFormat, RecordList, colours
from aima_api.client import Api, ApiError, path_of

COMPLETION_TIMEOUT = timedelta(seconds=1)
MOST_NAMED = 5
"""Ids in the message about an ambiguous one."""
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@~-]*")
_NO_SUCH_ID = ("bad_id", "unknown_service", "unknown_operation", "unknown_host")
WATCH_INTERVAL = timedelta(seconds=2)
Reply = TypeVar("Reply")
Command = Callable[..., Any]
Completer = Callable[[click.Context, click.Parameter, str], list[str]]
Decorator = Callable[[Command], Command]


class ResourceGroup(click.Group):
    """Commands on one kind of record. The short names of `kubectl` and `docker` are accepted, and not listed."""

    aliases: Mapping[str, str] = {"ls": "list", "rm": "remove", "describe": "show", "status": "show"}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or super().get_command(ctx, self.aliases.get(cmd_name, ""))


def on_full_id(api: Api, collection: str, text: str, call: Callable[[str], Reply], *, field: str = "id") -> Reply:
    """Resolves a unique prefix of an id, if no record has the id itself. Raises AmbiguousId, and as `call`."""
    from aima_core.errors import AmbiguousId, BadId

    try:
        return call(text)
    except (ApiError, BadId) as refused:
        if refused.failure.code not in _NO_SUCH_ID or not _PREFIX.fullmatch(text):
            raise
        ids = _beginning_with(text, api, collection, field)
        if not ids or text in ids:
            raise
    if len(ids) > 1:
        raise AmbiguousId(text=text, number=len(ids), ids=", ".join(ids[:MOST_NAMED]))
    return call(ids[0])


def _beginning_with(text: str, api: Api, collection: str, field: str) -> list[str]:
    """Empty if they cannot be listed: then the refusal of the id says more."""
    try:
        return [each[field] for each in api.every(path_of(collection)) if each[field].startswith(text)]
    except ApiError:
        return []


def on_each_id(
    api: Api, collection: str, texts: Sequence[str], call: Callable[[str], Reply], *, field: str = "id"
) -> tuple[list[Reply], int]:
    """The replies of the calls that succeeded, and the exit code of the first that was refused, which is printed.

    A refusal of a single id is raised.
    """
    from aima_core.errors import AimaError, exit_code_of

    replies, code = [], 0
    for text in texts:
        try:
            replies.append(on_full_id(api, collection, text, call, field=field))
        except (ApiError, AimaError) as refused:
            if len(texts) == 1:
                raise
            from aima_api.cli.errors import print_failure

            print_failure(refused.failure)
            code = code or exit_code_of(refused.failure.code)
    return replies, code


def having_labels(records: Sequence[dict[str, Any]], labels: Sequence[tuple[str, object]]) -> list[dict[str, Any]]:
    wanted = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in labels}
    return [each for each in records if wanted.items() <= each.get("labels", {}).items()]


def chosen_services(
    api: Api, ids: Sequence[str], every: bool, labels: Sequence[tuple[str, object]] = ()
) -> Sequence[str]:
    if bool(ids) == (every or bool(labels)):
        raise click.UsageError("Specify one or more IDs, --all, or -l LABEL=VALUE.", click.get_current_context())
    if ids:
        return ids
    found = having_labels(api.every("/v1/services"), labels)
    if labels and not found:
        click.echo(f"No service has {' and '.join(f'{name}={value}' for name, value in labels)}.", err=True)
    return [each["id"] for each in found]


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


def complete(*sources: tuple[str, str]) -> Completer:
    """Completes from fields of collections' records. Offers nothing of a collection after a timeout of one second."""

    def complete_id(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        from aima_core.errors import AimaError

        # While completing, no command runs, so ctx.obj is unset.
        urls = ctx.params.get("url") or ctx.find_root().params.get("url")
        values: list[Any] = []
        with (
            suppress(AimaError, ApiError),
            open_api(urls, ca=_authority(ctx), reply_timeout=COMPLETION_TIMEOUT) as api,
        ):
            for collection, field in sources:
                values += [item.get(field) or () for item in api.every(path_of(collection), at_most=1000)]
        texts = [text for value in values for text in ([value] if isinstance(value, str) else value)]
        return [text for text in dict.fromkeys(texts) if text.startswith(incomplete) and text.isprintable()]

    return complete_id


complete_startable = complete(("services", "id"), ("models", "services"))
"""Ids of services, and ids that would start a model of the catalog."""


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


class Variable(click.ParamType[tuple[str, str]]):
    """`NAME=value` as a pair; the value is text, and may be empty. The API checks the name."""

    name = "name=value"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not (name and equals):
            self.fail(f"{value!r} sets no variable; write for example `HF_HUB_OFFLINE=1`", param, ctx)
        if {*name.upper().split("_")} & _SECRET_WORDS:
            note = f"{name} is stored and shown in clear text. `--secret {name}` keeps its value on the hosts."
            click.echo(f"Note: {note}", err=True)
        return name, text


class SecretReference(click.ParamType[tuple[str, str]]):
    """`NAME[=entry]` as a pair; the entry of the hosts has the same name by default."""

    name = "name[=entry]"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, entry = str(value).partition("=")
        if not name or (equals and not entry):
            self.fail(f"{name!r} names no secret; write for example `HF_TOKEN` or `HF_TOKEN=huggingface`", param, ctx)
        return name, entry or name


def lists(command: Command) -> Command:
    """Prints the RecordList that the command returns, as -o says; with -w again whenever it has changed."""

    @click.option("-o", "--output", type=click.Choice(get_args(ListingFormat)), default="table", show_default=True)
    @click.option("-w", "--watch", is_flag=True, help="List again when something has changed, until interrupted.")
    @functools.wraps(command)
    def listing(*args: Any, output: ListingFormat, watch: bool, **options: Any) -> int:
        found = command(*args, **options)
        found.print(output)
        return _list_again(functools.partial(command, *args, **options), found, output) if watch else 0

    return listing


def _list_again(command: Command, shown: RecordList, output: ListingFormat) -> int:
    """Polls the listing, and prints it when it has changed: on a terminal in place of the last one, else below it."""
    from aima_api.cli.main import INTERRUPTED

    with suppress(KeyboardInterrupt):
        while True:
            time.sleep(WATCH_INTERVAL.total_seconds())
            found = command()
            if found.rows != shown.rows:
                click.clear() if colours() else click.echo()
                found.print(output)
            shown = found
    return INTERRUPTED


label_option = click.option(
    "-l",
    "--label",
    "labels",
    multiple=True,
    type=Assignment(),
    metavar="LABEL=VALUE",
    help="Only those with this label; repeat for several, which must all match.",
)
selector_option = click.option(
    "-l",
    "--selector",
    "selected",
    multiple=True,
    type=Assignment(),
    metavar="LABEL=VALUE",
    help="The services with this label; repeat for several, which must all match.",
)
"""Of commands on services, where --label sets one."""
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
    return click.option("--engine", metavar="E", shell_complete=complete(("engines", "name")), help=text)


def hosts_option(text: str) -> Decorator:
    completer = complete(("hosts", "name"))
    return click.option("--host", "hosts", multiple=True, metavar="H", shell_complete=completer, help=text)


def route_option(text: str) -> Decorator:
    return click.option("--route", metavar="R", shell_complete=complete(("hosts", "routes")), help=text)


only_hosts_option = hosts_option("Only on this host; repeat for several.")
_SECRET_WORDS = {"TOKEN", "KEY", "APIKEY", "PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "CREDENTIAL", "CREDENTIALS"}


def submits_operations(command: Command) -> Command:
    """Watches or prints the operations that the command's reply enqueued, as --wait, --timeout and -o say."""

    @wait_option
    @timeout_option
    @output_option
    @calls_the_api
    @functools.wraps(command)
    def submitting(api: Api, *args: Any, wait: bool, timeout: timedelta | None, output: Any, **options: Any) -> int:
        from aima_api.cli.progress.watcher import show_submitted

        reply = command(api, *args, **options)
        code = show_submitted(api, reply, wait=wait, timeout=timeout, output=output)
        return code or reply.get("exit_code", 0)

    return submitting


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
