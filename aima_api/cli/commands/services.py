"""`aima service …`"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from aima_api.cli.endpoints import direct_endpoints, inference_url
from aima_api.cli.options import (
    DurationType,
    ResourceGroup,
    calls_the_api,
    chosen_services,
    complete,
    complete_startable,
    expires_option,
    having_labels,
    lists,
    on_each_id,
    on_full_id,
    only_hosts_option,
    output_option,
    selector_option,
    submits_operations,
)
from aima_api.cli.service_options import service_body, service_options, unset_body
from aima_api.cli.tables import Format, RecordList, age, print_data, print_record, print_records, titled
from aima_api.client import Api, path_of

if TYPE_CHECKING:
    from aima_api.cli.progress.log_follower import Output
    from aima_core.domain.ids import ServiceId

Selected = tuple[tuple[str, object], ...]
_INSTANCE_COLUMNS = {"INSTANCE": "id", "STATE": "state", "AGE": "age", "ENDPOINT": "endpoint", "REASON": "reason"}
_TRAFFIC_COLUMNS = {"IN FLIGHT": "in_flight", "PER MINUTE": "per_minute"}
"""Where gateways send requests to an instance."""
_TAIL_HELP = "Only the last N lines of each host; 100 unless --since is given."
id_argument = click.argument("service_id", metavar="ID", shell_complete=complete(("services", "id")))
ids_argument = click.argument("service_ids", metavar="[ID]...", nargs=-1, shell_complete=complete(("services", "id")))
new_id_argument = click.argument("service_id", metavar="ID", shell_complete=complete_startable)
new_ids_argument = click.argument("service_ids", metavar="[ID]...", nargs=-1, shell_complete=complete_startable)
all_option = click.option("--all", "every", is_flag=True, help="All services.")


@click.group(cls=ResourceGroup)
def service() -> None:
    """Create, start, stop and inspect services.

    A service is an engine type serving a model, named svc-{engine type}-{model}, such as svc-vllm-qwen3-32b.
    """


@service.command()
@new_id_argument
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


@service.command("set")
@id_argument
@service_options
@output_option
@calls_the_api
def set_options(api: Api, service_id: str, output: Format, **options: Any) -> None:
    """Change a service's specification without starting it; other fields stay."""
    changes = service_body(options)
    _print_changed(on_full_id(api, "services", service_id, lambda id: api.patch(_path(id), changes)), output)


@service.command()
@id_argument
@click.argument("fields", metavar="FIELD...", nargs=-1, required=True)
@output_option
@calls_the_api
def unset(api: Api, service_id: str, fields: tuple[str, ...], output: Format) -> None:
    """Remove fields of a service's specification, such as port, model-path, set.max-model-len or label.team."""
    changes = unset_body(fields)
    _print_changed(on_full_id(api, "services", service_id, lambda id: api.patch(_path(id), changes)), output)


@service.command()
@new_ids_argument
@all_option
@selector_option
@service_options
@expires_option
@click.option(
    "--on-failure",
    type=click.Choice(["restore", "keep"]),
    help="Restore what ran before, as by default, or keep the failed container for debugging.",
)
@submits_operations
def start(api: Api, service_ids: tuple[str, ...], every: bool, selected: Selected, **options: Any) -> Any:
    """Start services, and create those first that do not exist."""
    return _submitted(api, chosen_services(api, service_ids, every, selected), ":start", service_body(options))


@service.command()
@ids_argument
@all_option
@selector_option
@only_hosts_option
@click.option("--grace", type=DurationType(), help="Time for the engine to end by itself before it is killed.")
@submits_operations
def stop(
    api: Api,
    service_ids: tuple[str, ...],
    every: bool,
    selected: Selected,
    hosts: tuple[str, ...],
    grace: timedelta | None,
) -> Any:
    """Stop services; stopped instances are left as they are."""
    body = service_body({"hosts": hosts, "grace": grace})
    return _submitted(api, chosen_services(api, service_ids, every, selected), ":stop", body)


@service.command()
@ids_argument
@all_option
@selector_option
@only_hosts_option
@submits_operations
def restart(api: Api, service_ids: tuple[str, ...], every: bool, selected: Selected, hosts: tuple[str, ...]) -> Any:
    """Stop services and start them again with the same specification."""
    return _submitted(
        api, chosen_services(api, service_ids, every, selected), ":restart", service_body({"hosts": hosts})
    )


@service.command()
@id_argument
@lists
@calls_the_api
def history(api: Api, service_id: str) -> RecordList:
    """List the last ten revisions of a service: changed fields, API key and time."""
    found = on_full_id(api, "services", service_id, lambda id: api.get(_path(id, "/revisions")))["items"]
    columns = {"REVISION": "revision", "AGE": "age", "BY": "changed_by", "CHANGED": "changed", "CURRENT": "current"}
    return RecordList(found, columns, "No revisions.", row=_revision_row)


@service.command()
@id_argument
@click.option("--to", type=click.IntRange(1), metavar="N", help="The revision; the one before the current by default.")
@expires_option
@submits_operations
def rollback(api: Api, service_id: str, **options: Any) -> Any:
    """Make an earlier revision the newest one, and start it where the service is to run."""
    body = service_body(options)
    return on_full_id(api, "services", service_id, lambda id: api.post(_path(id, ":rollback"), body))


@service.command()
@ids_argument
@all_option
@selector_option
@calls_the_api
def remove(api: Api, service_ids: tuple[str, ...], every: bool, selected: Selected) -> int:
    """Remove services that have no running instance."""

    def remove_one(id: str) -> None:
        api.delete(_path(id))
        click.echo(f"Service {id} removed.")

    return on_each_id(api, "services", chosen_services(api, service_ids, every, selected), remove_one)[1]


@service.command("list")
@selector_option
@lists
@calls_the_api
def list_services(api: Api, selected: Selected) -> RecordList:
    """List the services."""
    columns = {"SERVICE": "id", "ENGINE": "engine", "MODEL": "model", "INSTANCES": "states", "AGE": "age"}
    nothing = "No services. Create one with `aima service start ID`."
    wide = titled("hosts", "endpoints", "reason")
    found = having_labels(api.every("/v1/services"), selected)
    return RecordList(found, columns, nothing, row=_service_row, wide=wide)


@service.command()
@ids_argument
@click.option("--revision", type=click.IntRange(1), metavar="N", help="The specification as it was at revision N.")
@output_option
@calls_the_api
def show(api: Api, service_ids: tuple[str, ...], revision: int | None, output: Format) -> int:
    """Show services and their instances; without ID, the instances of all services."""
    if revision is not None:
        return _show_revision(api, service_ids, revision, output)
    if not service_ids:
        instances = [instance for each in api.every("/v1/services") for instance in each["instances"]]
        print_records(instances, _INSTANCE_COLUMNS, output, row=_instance_row, nothing="No instances.")
        return 0
    services, code = on_each_id(api, "services", service_ids, lambda id: api.get(_path(id)))
    if output != "table":
        print_data(services[0] if len(service_ids) == 1 else services, output)
        return code
    for number, service in enumerate(services):
        if number:
            click.echo()
        traffic = service.pop("traffic", None) or {}
        if (url := inference_url(service)) is None:
            service.pop("inference_url", None)
        print_record({field: value for field, value in service.items() if field != "instances"}, output)
        click.echo()
        instances = [{**each, **traffic.get(each["id"], {})} for each in service["instances"]]
        columns = _INSTANCE_COLUMNS | (_TRAFFIC_COLUMNS if traffic else {})
        if url is not None:
            del columns["ENDPOINT"]
        print_records(instances, columns, row=_instance_row, nothing="No instances.")
    return code


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

    service_id, service = on_full_id(api, "services", service_id, lambda id: (id, api.get(_path(id))))
    instances = service["instances"]
    hosts = query.pop("hosts")
    names = list(hosts) or [each["id"].partition("@")[2] for each in instances]
    show = shown.Show(output, names, timestamps=sys.stdout.isatty() if timestamps is None else timestamps)
    given = service_body({"host": hosts, **query})
    path = _path(service_id, "/logs")
    if follow:
        return shown.follow(api, path, given, show)
    shown.read(api, path, given, show)
    return 0


def _show_revision(api: Api, service_ids: Sequence[str], revision: int, output: Format) -> int:
    path = f"/revisions/{revision}"
    found, code = on_each_id(api, "services", service_ids, lambda id: api.get(_path(id, path)))
    for record in found:
        print_record(record, output)
    return code


def _print_changed(record: dict[str, Any], output: Format) -> None:
    if output == "table":
        click.echo(f"Service {record['id']} is at revision {record['revision']}.")
        click.echo(f"Apply it: aima service start {record['id']} --wait", err=True)
    else:
        print_data(record, output)


def _checked(service_id: str) -> ServiceId:
    """Raises BadId before any request."""
    from aima_core.domain.ids import ServiceId

    return ServiceId(service_id)


def _submitted(api: Api, ids: Sequence[str], action: str, body: dict[str, Any]) -> dict[str, Any]:
    """The operations of all accepted requests, and the exit code of the first refusal."""
    replies, code = on_each_id(api, "services", ids, lambda id: api.post(_path(id, action), body))
    return {
        "operations": [each for reply in replies for each in reply["operations"]],
        "exit_code": code,
        "unchanged": bool(replies) and all(each.get("unchanged") for each in replies),
    }


def _path(service_id: str, action: str = "") -> str:
    return path_of("services", _checked(service_id)) + action


def _service_row(service: dict[str, Any]) -> dict[str, Any]:
    states = Counter(instance["state"] for instance in service["instances"])
    engines = {instance.get("engine") for instance in service["instances"]} - {None}
    refused = ["unverified spec"] if "failure" in service else []
    return {
        "id": service["id"],
        "engine": service.get("engine") or sorted(engines),
        # As ServiceId.model, whose import would double the time of a listing.
        "model": service.get("model") or service["id"].split("-", 2)[-1],
        "states": ", ".join([*refused, *(f"{count} {state}" for state, count in states.items())]),
        "age": age(service.get("created_at")),
        "hosts": [instance["id"].partition("@")[2] for instance in service["instances"]],
        "endpoints": direct_endpoints(service),
        "reason": [instance["failure"]["message"] for instance in service["instances"] if instance.get("failure")],
    }


def _revision_row(revision: dict[str, Any]) -> dict[str, Any]:
    return {
        **revision,
        "age": age(revision["changed_at"]) if revision["changed_at"] else None,
        "changed": revision["changed"] or None,
        "current": "current" if revision["current"] else None,
    }


def _instance_row(instance: dict[str, Any]) -> dict[str, Any]:
    failure = instance.get("failure") or {}
    state = f"{instance['state']}{_unlike_its_state(instance)}"
    return {**instance, "state": state, "age": age(instance["since"]), "reason": failure.get("message")}


def _unlike_its_state(instance: dict[str, Any]) -> str:
    """A ready instance gets requests of gateways, and others do not, apart from those named here."""
    match instance["state"], instance.get("serving"):
        case "ready", False:
            return ", not serving"
        case "starting", True:
            return ", serving as before"
    return ""
