"""`aima service …`"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from aima_api.cli.completion import complete
from aima_api.cli.options import (
    DurationType,
    calls_the_api,
    host_option,
    output_option,
    service_body,
    service_options,
    timeout_option,
    wait_option,
)
from aima_api.cli.tables import Format, age, print_data, print_record, print_records

if TYPE_CHECKING:
    from aima_api.cli.progress.log_follower import Output
    from aima_api.client import Api
    from aima_core.domain.ids import ServiceId

id_argument = click.argument("service_id", metavar="ID", shell_complete=complete("services", "id"))


@click.group()
def service() -> None:
    """Create, start, stop and look at services.

    A service is an engine type serving a model, named svc-{engine type}-{model}, such as svc-vllm-qwen3-32b.
    """


@service.command()
@id_argument
@service_options
@output_option
@calls_the_api
def create(api: Api, service_id: str, output: Format, **options: Any) -> None:
    """Write down what a service is, without starting it. Creating it again replaces that."""
    record = api.post("/v1/services", {"id": _checked(service_id), **service_body(options)})
    if output == "table":
        click.echo(f"{service_id} is written down.")
        click.echo(f"Start it: aima service start {service_id} --wait", err=True)
    else:
        print_data(record, output)


@service.command()
@id_argument
@service_options
@wait_option
@timeout_option
@output_option
@calls_the_api
def start(api: Api, service_id: str, wait: bool, timeout: timedelta | None, output: Format, **options: Any) -> int:
    """Start a service, and create it first if it does not exist."""
    from aima_api.cli.progress.watcher import submitted

    return submitted(
        api, api.post(_path(service_id, ":start"), service_body(options)), wait=wait, timeout=timeout, output=output
    )


@service.command()
@id_argument
@host_option
@click.option("--grace", type=DurationType(), help="How long the engine may take to end by itself, such as 10s.")
@wait_option
@timeout_option
@output_option
@calls_the_api
def stop(
    api: Api,
    service_id: str,
    hosts: tuple[str, ...],
    grace: timedelta | None,
    wait: bool,
    timeout: timedelta | None,
    output: Format,
) -> int:
    """Stop a service; what is already stopped stays so."""
    from aima_api.cli.progress.watcher import submitted
    from aima_core.domain.units import format_duration

    body = service_body({"hosts": hosts, "grace": grace and format_duration(grace)})
    return submitted(api, api.post(_path(service_id, ":stop"), body), wait=wait, timeout=timeout, output=output)


@service.command()
@id_argument
@host_option
@wait_option
@timeout_option
@output_option
@calls_the_api
def restart(
    api: Api, service_id: str, hosts: tuple[str, ...], wait: bool, timeout: timedelta | None, output: Format
) -> int:
    """Stop a service and start it again as it was."""
    from aima_api.cli.progress.watcher import submitted

    body = service_body({"hosts": hosts})
    return submitted(api, api.post(_path(service_id, ":restart"), body), wait=wait, timeout=timeout, output=output)


@service.command()
@id_argument
@calls_the_api
def remove(api: Api, service_id: str) -> None:
    """Forget a service that runs nowhere."""
    api.delete(_path(service_id))
    click.echo(f"{service_id} is removed.")


@service.command("list")
@output_option
@calls_the_api
def list_services(api: Api, output: Format) -> None:
    """List the services."""
    services = api.every("/v1/services")
    rows = services if output != "table" else [_summed_up(each) for each in services]
    columns = {"SERVICE": "id", "ENGINE": "engine", "MODEL": "model", "INSTANCES": "states", "AGE": "age"}
    print_records(rows, columns, output, nothing="There is no service yet; `aima service start ID` creates one.")


@service.command()
@click.argument("service_id", metavar="[ID]", required=False, shell_complete=complete("services", "id"))
@output_option
@calls_the_api
def status(api: Api, service_id: str | None, output: Format) -> None:
    """Show what runs where: of one service, or of all."""
    services = api.every("/v1/services") if service_id is None else [api.get(_path(service_id))]
    instances = [instance for each in services for instance in each["instances"]]
    if output != "table":
        print_data(instances if service_id is None else services[0], output)
        return
    if service_id is not None:
        print_record({field: value for field, value in services[0].items() if field != "instances"}, output)
        click.echo()
    columns = {"INSTANCE": "id", "STATE": "state", "SINCE": "age", "ENDPOINT": "endpoint", "WHY": "why"}
    print_records(
        [_told(each) for each in instances],
        columns,
        output,
        nothing="It runs nowhere." if service_id else "Nothing runs.",
    )


@service.command()
@id_argument
@click.option("--follow", "-f", is_flag=True, help="Go on with what is said from now on, until it is stopped.")
@click.option(
    "--tail",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help="Only the last N lines of each host; 100 unless --since is given.",
)
@click.option("--since", metavar="T", help="Only what was said since: 10m ago, or 2026-01-31T12:00:00Z.")
@host_option
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@calls_the_api
def logs(
    api: Api,
    service_id: str,
    follow: bool,
    tail: int | None,
    since: str | None,
    hosts: tuple[str, ...],
    output: Output,
) -> int:
    """Show what a service's containers say, or said last: also from hosts that are away.

    Notes on what is missing go to stderr, lines to stdout; with -o json a record each.
    """
    from aima_api.cli.progress import log_follower as shown

    instances = api.get(_path(service_id))["instances"]
    show = shown.Show(output, list(hosts) or [each["id"].partition("@")[2] for each in instances])
    asked = {"tail": tail, "since": since, "host": hosts}
    given = {name: value for name, value in asked.items() if value}
    path = _path(service_id, "/logs")
    if follow:
        return shown.follow(api, path, given, show)
    shown.read(api, path, given, show)
    return 0


def _checked(service_id: str) -> ServiceId:
    """The id, if it is one: a mistyped one needs no API to be refused."""
    from aima_core.domain.ids import ServiceId

    return ServiceId(service_id)


def _path(service_id: str, action: str = "") -> str:
    from aima_api.client import path_of

    return path_of("services", _checked(service_id)) + action


def _summed_up(service: dict[str, Any]) -> dict[str, Any]:
    states = Counter(instance["state"] for instance in service["instances"])
    engines = {instance.get("engine") for instance in service["instances"]} - {None}
    return {
        **service,
        "engine": service.get("engine") or sorted(engines),
        "model": service.get("model") or _checked(service["id"]).model,
        "states": ", ".join(f"{count} {state}" for state, count in states.items()),
        "age": age(service["created_at"]),
    }


def _told(instance: dict[str, Any]) -> dict[str, Any]:
    failure = instance.get("failure") or {}
    return {**instance, "age": age(instance["since"]), "why": failure.get("message")}
