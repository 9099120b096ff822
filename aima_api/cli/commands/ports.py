"""`aima port …`"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aima_api.cli.options import calls_the_api, output_option
from aima_api.cli.tables import Format, age, print_records

if TYPE_CHECKING:
    from aima_api.client import Api


@click.group()
def port() -> None:
    """Show the ports that engines hold."""


@port.command("list")
@output_option
@calls_the_api
def list_ports(api: Api, output: Format) -> None:
    """List the leased ports and who holds them."""
    leases = api.every("/v1/ports")
    rows = leases if output != "table" else [{**each, "age": age(each["since"])} for each in leases]
    columns = {"HOST": "host", "PORT": "port", "HOLDER": "holder", "SINCE": "age"}
    print_records(rows, columns, output, nothing="No port is leased.")
