"""`aima host …`"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from aima_api.cli.completion import complete
from aima_api.cli.options import calls_the_api, output_option, timeout_option, wait_option
from aima_api.cli.printing import Format, age, print_data, print_record, print_records

if TYPE_CHECKING:
    from aima_api.cli.client import Api

_TOLD_OTHERWISE = ("live", "drained", "drained_since", "seen_at", "runtime_version")
name_argument = click.argument("name", shell_complete=complete("hosts", "name"))


@click.group()
def host() -> None:
    """Show the hosts, and let them take starts or not."""


@host.command("list")
@output_option
@calls_the_api
def list_hosts(api: Api, output: Format) -> None:
    """List the hosts that have announced themselves."""
    hosts = api.every("/v1/hosts")
    rows = hosts if output != "table" else [_readable(each) for each in hosts]
    columns = {
        "HOST": "name",
        "STATE": "state",
        "ARCH": "arch",
        "ACCELERATORS": "accelerators",
        "CORES": "cores",
        "MEMORY": "memory",
        "DISK FREE": "disk_free",
        "RUNTIME": "runtime",
        "SEEN": "seen",
    }
    print_records(rows, columns, output, nothing="No host has announced itself; `aima worker` on one does.")


@host.command()
@name_argument
@output_option
@calls_the_api
def show(api: Api, name: str, output: Format) -> None:
    """Show one host."""
    record = api.get(_path(name))
    print_record(record if output != "table" else _readable(record), output)


@host.command()
@name_argument
@click.option("--stop", is_flag=True, help="Stop what runs there, too.")
@wait_option
@timeout_option
@output_option
@calls_the_api
def drain(api: Api, name: str, stop: bool, wait: bool, timeout: timedelta | None, output: Format) -> int:
    """Let a host take no more starts. What runs there stays, unless --stop is given."""
    from aima_api.cli.watch import submitted

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


def _path(name: str) -> str:
    from aima_api.cli.client import path_of
    from aima_core.ids import HostName

    return path_of("hosts", HostName(name))


def _readable(host: dict[str, Any]) -> dict[str, Any]:
    from aima_core.quantities import format_size

    accelerators = [f"{each['name']} ({each['kind']})" for each in host.get("accelerators", ())]
    state = "live" if host["live"] else "away"
    first, last = host["ports"]
    return {
        **{name: value for name, value in host.items() if name not in _TOLD_OTHERWISE},
        "state": f"{state}, drained for {age(since)}" if (since := host.get("drained_since")) else state,
        "seen": age(host["seen_at"]),
        "accelerators": accelerators,
        "memory": format_size(host["memory"]),
        "disk_free": format_size(host["disk_free"]),
        "runtime": f"{host['runtime']} {host['runtime_version']}",
        "ports": f"{first}-{last}",
    }
