"""`aima alias …`"""

from __future__ import annotations

from typing import Any

import click

from aima_api.cli.options import ResourceGroup, calls_the_api, complete, output_option
from aima_api.cli.tables import Format, age, print_data, print_record, print_records, titled
from aima_api.client import Api, path_of
from aima_core.logs.sanitize import sanitized

name_argument = click.argument("name", shell_complete=complete(("aliases", "name")))
complete_services = complete(("services", "id"))


@click.group(cls=ResourceGroup)
def alias() -> None:
    """Set, list, show and remove names of models for applications.

    An alias, such as gpt-4o, spreads requests over services by weight.
    """


@alias.command("set")
@name_argument
@click.argument("targets", metavar="SERVICE[=WEIGHT]...", nargs=-1, required=True, shell_complete=complete_services)
@click.option(
    "--fallback",
    multiple=True,
    metavar="SERVICE",
    shell_complete=complete_services,
    help="Gets a request while no target can take it; repeat for several, in order.",
)
@output_option
@calls_the_api
def set_alias(api: Api, name: str, targets: tuple[str, ...], fallback: tuple[str, ...], output: Format) -> None:
    """Set where requests for an alias go, in place of what was set before.

    Each service gets its share of the requests by weight, such as svc-a=90 svc-b=10; without weights, all get the same.
    """
    body = {"targets": dict(map(_weighted, targets)), "fallback": fallback}
    record = api.put(path_of("aliases", name), body)
    if output == "table":
        click.echo(sanitized(f"Alias {name} leads to {_shares(record)}."))
    else:
        print_data(record, output)


@alias.command("list")
@output_option
@calls_the_api
def list_aliases(api: Api, output: Format) -> None:
    """List the aliases."""
    reply = api.get("/v1/aliases")
    columns = titled("alias", "targets", "fallback", "age", "by")
    nothing = "No aliases. Set one with `aima alias set`."
    print_records(reply["items"], columns, output, row=_row, nothing=nothing)
    if reply["unverified"]:
        reasons = "forged, unreadable, or signed by a key that is not trusted"
        click.echo(f"{reply['unverified']} stored records were skipped: {reasons}.", err=True)


@alias.command()
@name_argument
@output_option
@calls_the_api
def show(api: Api, name: str, output: Format) -> None:
    """Show an alias."""
    print_record(api.get(path_of("aliases", name)), output)


@alias.command()
@name_argument
@calls_the_api
def remove(api: Api, name: str) -> None:
    """Remove an alias: gateways no longer know it within seconds."""
    api.delete(path_of("aliases", name))
    click.echo(f"Alias {sanitized(name)} removed.")


def _weighted(target: str) -> tuple[str, int]:
    service, has_weight, weight = target.partition("=")
    if has_weight and not (weight.isdecimal() and len(weight) < 10):
        raise click.UsageError(f"{target!r} has no weight: write it such as {service}=90.", click.get_current_context())
    return service, int(weight) if has_weight else 1


def _shares(record: dict[str, Any]) -> str:
    total = sum(record["targets"].values())
    shares = [f"{service} ({weight / total:.3g})" for service, weight in record["targets"].items()]
    return ", ".join(shares)


def _row(record: dict[str, Any]) -> dict[str, Any]:
    weighted = [f"{service}={weight}" for service, weight in record["targets"].items()]
    return {
        **record,
        "alias": record["name"],
        "targets": weighted,
        "age": age(record["changed_at"]),
        "by": record["changed_by"],
    }
