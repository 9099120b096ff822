"""`aima host …`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aima_api.cli.completion import complete
from aima_api.cli.options import calls_the_api, output_option
from aima_api.cli.printing import Format, age, print_record, print_records

if TYPE_CHECKING:
    from aima_api.cli.client import Api


@click.group()
def host() -> None:
    """Show the hosts and what they have."""


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
@click.argument("name", shell_complete=complete("hosts", "name"))
@output_option
@calls_the_api
def show(api: Api, name: str, output: Format) -> None:
    """Show one host."""
    from aima_api.cli.client import path_of
    from aima_core.ids import HostName

    record = api.get(path_of("hosts", HostName(name)))
    print_record(record if output != "table" else _readable(record), output)


def _readable(host: dict[str, Any]) -> dict[str, Any]:
    from aima_core.quantities import format_size

    accelerators = [f"{each['name']} ({each['kind']})" for each in host.get("accelerators", ())]
    state = "live" if host["live"] else "away"
    first, last = host["ports"]
    return {
        **{
            name: value for name, value in host.items() if name not in ("live", "drained", "seen_at", "runtime_version")
        },
        "state": f"{state}, drained" if host.get("drained") else state,
        "seen": age(host["seen_at"]),
        "accelerators": accelerators,
        "memory": format_size(host["memory"]),
        "disk_free": format_size(host["disk_free"]),
        "runtime": f"{host['runtime']} {host['runtime_version']}",
        "ports": f"{first}-{last}",
    }
