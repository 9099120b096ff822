"""`aima service …`"""

from __future__ import annotations

import sys
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from aima_api.cli.options import (
    DurationType,
    calls_the_api,
    complete,
    expires_option,
    only_hosts_option,
    output_option,
    service_body,
    service_options,
    submits_operations,
)
from aima_api.cli.tables import Format, age, print_data, print_record, print_records
from aima_api.client import Api, path_of

if TYPE_CHECKING:
    from aima_api.cli.progress.log_follower import Output
    from aima_core.domain.ids import ServiceId

_TAIL_HELP = "Only the last N lines of each host; 100 unless --since is given."
id_argument = click.argument("service_id", metavar="ID", shell_complete=complete("services", "id"))


@click.group()
def service() -> None:
    """Create, start, stop and inspect services.

    A service is an engine type serving a model, named svc-{engine type}-{model}, such as svc-vllm-qwen3-32b.
    """


@service.command()
@id_argument
@service_options
@output_option
@calls_the_api
def create(api: Api, service_id: str, output: Format, **options: Any) -> None:
    """Create a service without starting it, or replace its specification."""
    record = api.post("/v1/services", {"id": _checked(service_id), **service_body(options)})
    if output == "table":
        click.echo(f"Service {service_id} created.")
        click.echo(f"Start it: aima service start {service_id} --wait", err=True)
    else:
        print_data(record, output)


@service.command()
@id_argument
@service_options
@expires_option
@submits_operations
def start(api: Api, service_id: str, **options: Any) -> Any:
    """Start a service, and create it first if it does not exist."""
    return api.post(_path(service_id, ":start"), service_body(options))


@service.command()
@id_argument
@only_hosts_option
@click.option("--grace", type=DurationType(), help="Time for the engine to end by itself before it is killed.")
@submits_operations
def stop(api: Api, service_id: str, hosts: tuple[str, ...], grace: timedelta | None) -> Any:
    """Stop a service; stopped instances are left as they are."""
    return api.post(_path(service_id, ":stop"), service_body({"hosts": hosts, "grace": grace}))


@service.command()
@id_argument
@only_hosts_option
@submits_operations
def restart(api: Api, service_id: str, hosts: tuple[str, ...]) -> Any:
    """Stop a service and start it again with the same specification."""
    return api.post(_path(service_id, ":restart"), service_body({"hosts": hosts}))


@service.command()
@id_argument
@calls_the_api
def remove(api: Api, service_id: str) -> None:
    """Remove a service that has no running instance."""
    api.delete(_path(service_id))
    click.echo(f"Service {service_id} removed.")


@service.command("list")
@output_option
@calls_the_api
def list_services(api: Api, output: Format) -> None:
    """List the services."""
    columns = {"SERVICE": "id", "ENGINE": "engine", "MODEL": "model", "INSTANCES": "states", "AGE": "age"}
    nothing = "No services. Create one with `aima service start ID`."
    print_records(api.every("/v1/services"), columns, output, row=_service_row, nothing=nothing)


@service.command()
@click.argument("service_id", metavar="[ID]", required=False, shell_complete=complete("services", "id"))
@output_option
@calls_the_api
def status(api: Api, service_id: str | None, output: Format) -> None:
    """Show the instances of a service, or of all services."""
    services = api.every("/v1/services") if service_id is None else [api.get(_path(service_id))]
    instances = [instance for each in services for instance in each["instances"]]
    if output != "table":
        print_data(instances if service_id is None else services[0], output)
        return
    if service_id is not None:
        print_record({field: value for field, value in services[0].items() if field != "instances"}, output)
        click.echo()
    columns = {"INSTANCE": "id", "STATE": "state", "AGE": "age", "ENDPOINT": "endpoint", "REASON": "reason"}
    print_records(instances, columns, row=_instance_row, nothing="No instances.")


@service.command()
@id_argument
@click.option("--follow", "-f", is_flag=True, help="Stream new lines until interrupted.")
@click.option("--tail", type=click.IntRange(1, 10_000), metavar="N", help=_TAIL_HELP)
@click.option("--since", metavar="T", help="Only lines since T, such as 10m or 2026-01-31T12:00:00Z.")
@click.option("--timestamps/--no-timestamps", default=None, help="Print the time of each line; default on a terminal.")
@only_hosts_option
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@calls_the_api
def logs(api: Api, service_id: str, follow: bool, timestamps: bool | None, output: Output, **query: Any) -> int:
    """Show the logs of a service's containers, also of ended ones.

    Lines go to stdout, notes on missing ones to stderr; -o json prints one record per line.
    """
    from aima_api.cli.progress import log_follower as shown

    instances = api.get(_path(service_id))["instances"]
    hosts = query.pop("hosts")
    names = list(hosts) or [each["id"].partition("@")[2] for each in instances]
    show = shown.Show(output, names, timestamps=sys.stdout.isatty() if timestamps is None else timestamps)
    given = service_body({"host": hosts, **query})
    path = _path(service_id, "/logs")
    if follow:
        return shown.follow(api, path, given, show)
    shown.read(api, path, given, show)
    return 0


def _checked(service_id: str) -> ServiceId:
    """Raises BadId before any request."""
    from aima_core.domain.ids import ServiceId

    return ServiceId(service_id)


def _path(service_id: str, action: str = "") -> str:
    return path_of("services", _checked(service_id)) + action


def _service_row(service: dict[str, Any]) -> dict[str, Any]:
    states = Counter(instance["state"] for instance in service["instances"])
    engines = {instance.get("engine") for instance in service["instances"]} - {None}
    return {
        "id": service["id"],
        "engine": service.get("engine") or sorted(engines),
        # As ServiceId.model, whose import would double the time of a listing.
        "model": service.get("model") or service["id"].split("-", 2)[-1],
        "states": ", ".join(f"{count} {state}" for state, count in states.items()),
        "age": age(service["created_at"]),
    }


def _instance_row(instance: dict[str, Any]) -> dict[str, Any]:
    failure = instance.get("failure") or {}
    return {**instance, "age": age(instance["since"]), "reason": failure.get("message")}
