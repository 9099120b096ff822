"""`aima profile …`"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import click

from aima_api.cli.commands.operations import VERDICTS, candidate, requirements
from aima_api.cli.options import (
    ResourceGroup,
    calls_the_api,
    complete,
    hosts_option,
    lists,
    output_option,
    submits_operations,
)
from aima_api.cli.tables import Format, RecordList, print_data, print_record, print_records, titled
from aima_api.client import Api, ApiError, path_of

_NO_HOSTS = "No hosts. Start a worker on one with `aima worker`."
profile = ResourceGroup("profile", help="Show kinds of machines, and start the services recommended for one together.")
name_argument = click.argument("name", shell_complete=complete(("profiles", "name")))


@profile.command("list")
@lists
@calls_the_api
def list_profiles(api: Api) -> RecordList:
    """List the profiles, and the hosts that match them."""
    columns = {"PROFILE": "name", **titled("arch", "accelerator", "cores", "memory", "services", "hosts")}
    return RecordList(api.every("/v1/profiles"), columns, "No profiles in the catalog.", row=_fields)


@profile.command()
@name_argument
@output_option
@calls_the_api
def show(api: Api, name: str, output: Format) -> None:
    """Show one profile, what keeps each host from matching it, and what `apply` would do now."""
    record, path = api.get(path_of("profiles", name)), path_of("profiles", name) + ":plan"
    plans: list[dict[str, Any]] = []
    with suppress(ApiError):  # no host matches, as the record shows
        plans = api.post(path, {})["items"]
    if output != "table":
        print_data(record | {"plans": plans}, output)
        return
    print_record({field: value for field, value in _fields(record).items() if field != "services"}, output)
    verdicts = {each["service"]: each for each in plans}
    services = [each | {"plan": verdicts.get(each["service"])} for each in record["services"]]
    click.echo()
    print_records(services, titled("service", "engine", "needs", "verdict", "reason"), row=_service_row)
    click.echo()
    print_records(record["hosts"], titled("host", "matches", "reason"), row=_host_row, nothing=_NO_HOSTS)


@profile.command()
@name_argument
@hosts_option("Start them on this host; repeat for several. By default on every live host that matches.")
@submits_operations
def apply(api: Api, name: str, hosts: tuple[str, ...]) -> Any:
    """Start the services that a profile recommends, together: all of them, or none if one would wait."""
    return api.post(path_of("profiles", name) + ":apply", {"hosts": hosts})


def _fields(record: dict[str, Any]) -> dict[str, Any]:
    from aima_core.domain.units import format_size

    memory = format_size(int(record["memory"].removesuffix("B")))
    shown = {name: value for name, value in record.items() if name not in ("recommends", "unified_memory")}
    return {
        **shown,
        "memory": memory + (", shared by CPU and GPU" if record["unified_memory"] else ""),
        "services": [each["service"] for each in record["services"]],
        "hosts": [each["host"] for each in record["hosts"] if each["would_do"]],
    }


def _service_row(service: dict[str, Any]) -> dict[str, Any]:
    plan = service["plan"]
    return {
        **service,
        "needs": requirements(service["needs"]),
        "verdict": plan and VERDICTS.get(plan["verdict"], plan["verdict"]),
        "reason": plan and plan["failure"] and plan["failure"]["message"],
    }


def _host_row(host: dict[str, Any]) -> dict[str, Any]:
    row = candidate(host)
    return {**row, "matches": row["eligible"]}
