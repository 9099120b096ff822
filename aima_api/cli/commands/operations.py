"""`aima operation …`, `aima events`, and `aima plan`: the operations that a start would submit."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import click

from aima_api.cli.main import INTERRUPTED
from aima_api.cli.options import (
    ResourceGroup,
    calls_the_api,
    complete,
    complete_startable,
    lists,
    on_each_id,
    on_full_id,
    output_option,
    timeout_option,
)
from aima_api.cli.service_options import service_body, service_options
from aima_api.cli.tables import Format, RecordList, age, print_data, print_record, print_records, titled
from aima_api.client import Api, ApiError, path_of
from aima_core.domain.units import counted, format_size
from aima_core.logs.sanitize import sanitized

complete_id = complete(("operations", "id"))
id_argument = click.argument("operation_id", metavar="ID", shell_complete=complete_id)
ids_argument = click.argument("operation_ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_id)
KINDS = ["start", "pull", "stop", "remove", "pull-model", "remove-model", "pin-model", "unpin-model", "prune-models"]
VERDICTS = {
    "unchanged": "runs as asked: a start would change nothing",
    "starts": "would start now",
    "waits": "would wait",
    "refused": "would be refused",
}


@click.group(cls=ResourceGroup)
def operation() -> None:
    """List, watch and cancel operations.

    Each start, pull, stop or removal of an image on one host is an operation.
    """


@operation.command("list")
@click.option("--state", type=click.Choice(["queued", "running", "succeeded", "failed", "cancelled"]))
@click.option("--kind", type=click.Choice(KINDS))
@click.option("--service", metavar="ID", shell_complete=complete(("services", "id")))
@click.option("--host", metavar="H", shell_complete=complete(("hosts", "name")))
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The newest N.", metavar="N")
@lists
@calls_the_api
def list_operations(api: Api, limit: int, **filters: str | None) -> RecordList:
    """List the operations, newest first."""
    operations = api.every("/v1/operations", at_most=limit, **filters)
    columns = {"OPERATION": "id", **titled("kind", "target", "host", "phase", "age", "reason")}
    return RecordList(operations, columns, "No operations.", row=_row, wide=titled("route", "attempt", "created_at"))


@operation.command()
@id_argument
@output_option
@calls_the_api
def show(api: Api, operation_id: str, output: Format) -> None:
    """Show one operation."""
    print_record(_operation(api, operation_id), output, row=_fields)


@operation.command()
@ids_argument
@timeout_option
@output_option
@calls_the_api
def watch(api: Api, operation_ids: tuple[str, ...], timeout: timedelta | None, output: Format) -> int:
    """Watch operations from their first event until they end."""
    from aima_api.cli.progress.watcher import watch
    from aima_core.domain.operations import Operation

    operations = [api.read(Operation, _operation(api, each)) for each in operation_ids]
    return watch(api, operations, timeout=timeout, output=output)


@operation.command()
@ids_argument
@output_option
@calls_the_api
def cancel(api: Api, operation_ids: tuple[str, ...], output: Format) -> int:
    """Cancel operations; ended ones are left as they are."""
    records, code = on_each_id(api, "operations", operation_ids, lambda id: api.post(_path(id) + ":cancel"))
    if output != "table":
        print_data(records, output)
        return code
    for record in records:
        ended = record["state"] in ("succeeded", "failed")
        click.echo(f"Operation {record['id']} " + (f"has already {record['state']}." if ended else "cancelled."))
    return code


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Print later events as they come.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, metavar="N", help="The last N.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@calls_the_api
def events(api: Api, follow: bool, limit: int, output: str) -> int:
    """Show the events of all operations, and follow them.

    -o json prints one record per line.
    """
    from aima_api.cli.progress.event_follower import ConnectionLost, follow_all

    recent = api.get("/v1/events/recent", limit=limit)
    titles = _Titles(api)
    for event in recent["items"]:
        _print_event(event, titles, output)
    if not follow:
        return 0
    with suppress(KeyboardInterrupt):
        for event in follow_all(api, recent["last"]):
            if isinstance(event, ConnectionLost):
                click.echo(sanitized(f"Connection lost, trying again. {event.reason}"), err=True)
            else:
                _print_event(event, titles, output)
    return INTERRUPTED


@click.command()
@click.argument("service_ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_startable)
@service_options
@output_option
@calls_the_api
def plan(api: Api, service_ids: tuple[str, ...], output: Format, **options: Any) -> int:
    """Show what a start would do, without starting anything.

    Takes the options of `aima service start`. For one service it lists the obstacles of every host, the bytes of the
    model that it would fetch, and how long that takes at the rate of its last fetch; several are planned together in
    this order, each counting what those before it allocate. Whether the weights of a model without a source exist is
    checked by the host only, when it starts.

    Exits with 0 if everything would start now, else with the code of would_wait or of the refusal.
    """
    from aima_core.domain.ids import ServiceId

    body, ids = service_body(options), [ServiceId(each) for each in dict.fromkeys(service_ids)]
    if len(ids) > 1:
        return _plan_together(api, {"services": [{"id": id, **body} for id in ids]}, output)
    found = api.post(path_of("services", ids[0]) + ":plan", body)
    if output == "table":
        _print_plan(found)
    else:
        print_data(found, output)
    return _conclude_plan(api, found)


class _Titles:
    """`start svc-asr-x` for the id of an operation; each is read once, and one that is no longer stored has none."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._known: dict[str, str] = {}

    def of(self, id: str) -> str:
        if id not in self._known:
            try:
                record = self._api.get(_path(id))
                self._known[id] = (
                    f"{record['kind']} {record.get('service') or record.get('image') or record.get('model')}"
                )
            except ApiError:
                self._known[id] = id[:8]
        return self._known[id]


def _print_event(event: dict[str, Any], titles: _Titles, output: str) -> None:
    if output == "json":
        click.echo(json.dumps(event))  # ASCII only, so it needs no sanitizing
        return
    at = datetime.fromisoformat(event["at"]).astimezone()
    host = f" on {event['host']}" if event.get("host") else ""
    failure = (event.get("failure") or {}).get("message")
    detail = failure or event.get("message") or event.get("endpoint") or _amounts(event)
    line = f"{at:%Y-%m-%d %H:%M:%S}  {titles.of(event['operation'])}{host}: {event['phase']}"
    click.echo(sanitized(f"{line}  {detail}" if detail else line))
    for text in event.get("lines", ()):
        click.echo(sanitized(f"{'':21}| {text}"))


def _amounts(event: dict[str, Any]) -> str | None:
    from aima_api.cli.progress.tracker import amounts, fetched
    from aima_core.domain.models import FetchProgress
    from aima_core.domain.operations import PullProgress

    if event.get("fetch"):
        return fetched(FetchProgress.model_validate(event["fetch"]))
    return amounts(PullProgress.model_validate(event["progress"])) if event.get("progress") else None


def _operation(api: Api, id: str) -> Any:
    return on_full_id(api, "operations", id, lambda full: api.get(_path(full)))


def _path(operation_id: str) -> str:
    from aima_core.domain.ids import OperationId

    return path_of("operations", OperationId(operation_id))


def _row(record: dict[str, Any]) -> dict[str, Any]:
    failure = record.get("failure") or {}
    return {
        **record,
        "target": record.get("service") or record.get("image") or record.get("model"),
        "age": age(record["created_at"]),
        "reason": failure.get("message") or (None if record.get("ended_at") else record.get("reason")),
    }


def _fields(record: dict[str, Any]) -> dict[str, Any]:
    """Without what only programs use; the failure and the progress as fields of their own."""
    from aima_api.cli.progress.tracker import amounts
    from aima_core.domain.operations import PullProgress

    fields = {name: value for name, value in record.items() if name not in ("seq", "progress", "failure", "collection")}
    fields["collected"] = "\n".join(map(_collected, record.get("collection") or ()))
    fields["needs"] = requirements(record["needs"]) if record.get("service") and record.get("needs") else None
    if record.get("progress"):
        fields["pull"] = amounts(PullProgress.model_validate(record["progress"]))
    for name, value in (record.get("failure") or {}).items():
        fields["error" if name == "message" else name] = "\n".join(value) if name == "log_tail" else value
    return fields


def _collected(entry: dict[str, Any]) -> str:
    """`kokoro 2a1f3b4c5d6e: kept, pinned`"""
    outcome = f"kept, {entry['kept']}" if entry["kept"] else f"frees {format_size(entry['freed'] or 0)}"
    return f"{entry['model']} {entry['revision'][:12]}: {outcome}"


# The plan ---------------------------------------------------------------------------------------------------------


def _print_plan(found: dict[str, Any]) -> None:
    model = f" and {found['model']}" if found["model"] else ""
    verdict = VERDICTS.get(found["verdict"], found["verdict"])
    click.echo(sanitized(f"{found['service']} with {found['engine']}{model} {verdict}."))
    click.echo(sanitized(f"Requires {requirements(found['needs'])}, on a host of {' or '.join(found['routes'])}."))
    click.echo()
    if any(each["action"] != "refused" for each in found["instances"]):
        print_records(found["instances"], titled("action", "where", "reason"), row=_planned_instance)
        click.echo()
    if found["operations"]:
        columns = {"OPERATION": "kind", **titled("route", "image", "port", "status")}
        print_records(found["operations"], columns, row=_planned)
        click.echo()
    nothing = "No hosts. Start a worker on one with `aima worker`."
    fetches = any(each.get("to_fetch") is not None for each in found["hosts"])
    columns = titled("host", "eligible", *(["to_fetch"] if fetches else []), "reason")
    print_records(found["hosts"], columns, row=candidate, nothing=nothing)


def _plan_together(api: Api, body: dict[str, Any], output: Format) -> int:
    from aima_core.errors import Failure, exit_code_of

    found = api.post("/v1/services:plan", body)["items"]
    if output == "table":
        columns = titled("service", "engine", "needs", "verdict", "where", "reason")
        print_records(found, columns, row=_planned_service)
    else:
        print_data(found, output)
    failures = [api.read(Failure, each["failure"]) for each in found if each["failure"]]
    return exit_code_of(failures[0].code) if failures else 0


def _planned_service(plan: dict[str, Any]) -> dict[str, Any]:
    failure, verdict = plan["failure"], plan.get("verdict", "refused")
    instances = [each for each in plan.get("instances", ()) if each["action"] not in ("stop", "refused")]
    return {
        "service": plan["service"],
        "engine": plan.get("engine"),
        "needs": requirements(plan["needs"]) if "needs" in plan else None,
        "verdict": verdict,
        "where": [_planned_instance(each)["where"] for each in instances],
        "reason": failure and failure["message"],
    }


def _conclude_plan(api: Api, found: dict[str, Any]) -> int:
    """A plan that would wait has succeeded as a plan: its reason is no error."""
    from aima_api.cli.errors import print_failure, print_hint
    from aima_core.errors import Failure, exit_code_of

    if found["failure"] is None:
        return 0
    failure = api.read(Failure, found["failure"])
    if found["verdict"] == "waits":
        reasons = list(dict.fromkeys(each["reason"] for each in found["operations"] if each["reason"]))
        click.echo(f"Would wait: {sanitized(' '.join(reasons) or failure.message)}", err=True)
        print_hint(failure)
    else:
        print_failure(failure)
    return exit_code_of(failure.code)


def requirements(needs: dict[str, Any]) -> str:
    from aima_core.domain.units import format_size

    parts = [f"{format_size(needs['memory'])} memory", counted(needs["cores"], "core")]
    if gpus := needs["gpus"]:
        parts.append("all GPUs" if gpus == "all" else counted(gpus, "GPU"))
    if size := needs["gpu_memory"]:
        parts.append(f"{format_size(size)} GPU memory")
    return ", ".join(parts)


def _planned(operation: dict[str, Any]) -> dict[str, Any]:
    presence = {True: " (present)", False: " (to be pulled)"}.get(operation["image_there"], "")
    first = f" ({operation['first']} first)" if operation.get("first") else ""
    return {
        **operation,
        "route": f"{operation['route']}{first}",
        "image": operation["image"] and operation["image"] + presence,
        "port": operation["port"] or "any free",
        "status": "waits" if operation["reason"] else "starts",
    }


def _planned_instance(instance: dict[str, Any]) -> dict[str, Any]:
    fields = f" ({', '.join(instance['fields'])})" if instance["fields"] else ""
    moved = f" from {instance['moved_from']}" if instance["moved_from"] else ""
    where = instance["host"] or instance["route"]
    return {**instance, "action": instance["action"] + fields, "where": f"{where}{moved}"}


def candidate(host: dict[str, Any]) -> dict[str, Any]:
    from aima_core.scheduling.feasibility import joined

    obstacles = host["why_not"]
    transient = bool(obstacles) and all(each["passes"] for each in obstacles)
    return {
        "host": host["host"],
        "eligible": "not now" if transient else "no" if obstacles else "yes",
        "to_fetch": _to_fetch(host),
        "reason": joined(each["sentence"] for each in obstacles),
    }


def _to_fetch(host: dict[str, Any]) -> str | None:
    """`nothing`, `60 GB`, or `60 GB, about 9m` by the rate of the host's last fetch."""
    from aima_core.domain.units import format_duration, format_size, parse_duration

    if (missing := host.get("to_fetch")) is None:
        return None
    takes = host.get("fetch_takes")
    about = f", about {format_duration(parse_duration(takes))}" if takes else ""
    return f"{format_size(missing)}{about}" if missing else "nothing"
