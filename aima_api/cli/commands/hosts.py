"""`aima host …`"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from aima_api.cli.completion import complete
from aima_api.cli.options import calls_the_api, output_option, timeout_option, wait_option
from aima_api.cli.tables import Format, print_data, print_record, print_records

if TYPE_CHECKING:
    from aima_api.client import Api

name_argument = click.argument("name", shell_complete=complete("hosts", "name"))


@click.group()
def host() -> None:
    """Show the hosts, and let them take starts or not."""


@host.command("list")
@output_option
@calls_the_api
def list_hosts(api: Api, output: Format) -> None:
    """List the hosts that have announced themselves."""
    from aima_api.cli.host_view import columns_for, row

    hosts = api.every("/v1/hosts")
    rows = hosts if output != "table" else [row(each) for each in hosts]
    columns = columns_for(rows) if output == "table" else {}
    print_records(rows, columns, output, nothing="No host has announced itself; `aima worker` on one does.")


@host.command()
@name_argument
@output_option
@calls_the_api
def show(api: Api, name: str, output: Format) -> None:
    """Show one host."""
    from aima_api.cli.host_view import record

    host = api.get(_path(name))
    print_record(host if output != "table" else record(host), output)


@host.command()
@name_argument
@click.option("--stop", is_flag=True, help="Stop what runs there, too.")
@wait_option
@timeout_option
@output_option
@calls_the_api
def drain(api: Api, name: str, stop: bool, wait: bool, timeout: timedelta | None, output: Format) -> int:
    """Let a host take no more starts. What runs there stays, unless --stop is given."""
    from aima_api.cli.progress.watcher import submitted

    answer = api.post(_path(name) + ":drain", {"stop": stop})
    if output == "table":
        click.echo(f"{name} is drained: it takes no starts until `aima host resume {name}`.")
    if stop and (output == "table" or wait or timeout is not None):
        return submitted(api, answer, wait=wait, timeout=timeout, output=output)
    if output != "table":
        print_data(answer, output)
    return 0


@host.command()
@name_argument
@output_option
@calls_the_api
def resume(api: Api, name: str, output: Format) -> None:
    """Let a drained host take starts again; those that wait for it begin."""
    record = api.post(_path(name) + ":resume")
    if output == "table":
        click.echo(f"{name} takes starts again." if record["live"] else f"{name} takes starts again once it is back.")
    else:
        print_data(record, output)


@host.command()
@name_argument
@calls_the_api
def forget(api: Api, name: str) -> None:
    """Forget a host that is gone for good, with all that is recorded of it."""
    api.delete(_path(name))
    click.echo(f"{name} is forgotten.")


def _path(name: str) -> str:
    from aima_api.client import path_of
    from aima_core.domain.ids import HostName

    return path_of("hosts", HostName(name))
