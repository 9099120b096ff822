"""`aima operation …`"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from aima_api.cli.completion import complete
from aima_api.cli.options import calls_the_api, output_option, timeout_option
from aima_api.cli.tables import Format, age, print_data, print_record, print_records

if TYPE_CHECKING:
    from aima_api.client import Api

id_argument = click.argument("operation_id", metavar="ID", shell_complete=complete("operations", "id"))
ids_argument = click.argument(
    "operation_ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete("operations", "id")
)


@click.group()
def operation() -> None:
    """Follow and cancel what is under way.

    Each start, pull or stop on one host is an operation.
    """


@operation.command("list")
@click.option("--state", type=click.Choice(["queued", "running", "succeeded", "failed", "cancelled"]))
@click.option("--kind", type=click.Choice(["start", "pull", "stop"]))
@click.option("--service", metavar="ID", shell_complete=complete("services", "id"))
@click.option("--host", metavar="H", shell_complete=complete("hosts", "name"))
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many, newest first.")
@output_option
@calls_the_api
def list_operations(api: Api, limit: int, output: Format, **filters: str | None) -> None:
    """List the operations."""
    operations = api.every("/v1/operations", at_most=limit, **filters)
    rows = operations if output != "table" else [_summed_up(each) for each in operations]
    columns = {
        "OPERATION": "id",
        "KIND": "kind",
        "OF": "of",
        "HOST": "host",
        "PHASE": "phase",
        "AGE": "age",
        "WHY": "why",
    }
    print_records(rows, columns, output, nothing="There is no such operation.")


@operation.command()
@id_argument
@output_option
@calls_the_api
def show(api: Api, operation_id: str, output: Format) -> None:
    """Show one operation."""
    record = api.get(_path(operation_id))
    print_record(record if output != "table" else _readable(record), output)


@operation.command()
@ids_argument
@timeout_option
@output_option
@calls_the_api
def watch(api: Api, operation_ids: tuple[str, ...], timeout: timedelta | None, output: Format) -> int:
    """Watch operations from their beginning until they end."""
    from aima_api.cli.progress.watcher import watch
    from aima_core.domain.operations import Operation

    operations = [api.read(Operation, api.get(_path(each))) for each in operation_ids]
    return watch(api, operations, timeout=timeout, output=output)


@operation.command()
@ids_argument
@output_option
@calls_the_api
def cancel(api: Api, operation_ids: tuple[str, ...], output: Format) -> None:
    """Cancel operations; what has ended stays as it is."""
    records = [api.post(_path(each) + ":cancel") for each in operation_ids]
    if output != "table":
        print_data(records, output)
        return
    for record in records:
        ended = record["state"] in ("succeeded", "failed")
        click.echo(f"{record['id']} " + (f"had already {record['state']}." if ended else "is cancelled."))


def _path(operation_id: str) -> str:
    from aima_api.client import path_of
    from aima_core.domain.ids import OperationId

    return path_of("operations", OperationId(operation_id))


def _summed_up(record: dict[str, Any]) -> dict[str, Any]:
    failure = record.get("failure") or {}
    return {
        **record,
        "of": record.get("service") or record.get("image"),
        "age": age(record["created_at"]),
        "why": failure.get("message") or (None if record.get("ended_at") else record.get("reason")),
    }


def _readable(record: dict[str, Any]) -> dict[str, Any]:
    """Without what only a program wants, the failure and the progress as their own fields."""
    from aima_api.cli.progress.text import amounts
    from aima_core.domain.operations import PullProgress

    fields = {name: value for name, value in record.items() if name not in ("seq", "progress", "failure")}
    if record.get("progress"):
        fields["pull"] = amounts(PullProgress.model_validate(record["progress"]))
    for name, value in (record.get("failure") or {}).items():
        fields["error" if name == "message" else name] = "\n".join(value) if name == "log_tail" else value
    return fields
