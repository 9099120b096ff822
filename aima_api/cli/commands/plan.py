"""`aima plan …`: what a start would come to, and why not to the other hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aima_api.cli.completion import complete
from aima_api.cli.options import calls_the_api, output_option, service_body, service_options
from aima_api.cli.tables import Format, print_data, print_records
from aima_core.logs.sanitize import sanitized

if TYPE_CHECKING:
    from aima_api.client import Api

_WOULD = {"starts": "would start now", "waits": "would wait", "refused": "would be refused"}


@click.command()
@click.argument("service_id", metavar="ID", shell_complete=complete("services", "id"))
@service_options
@output_option
@calls_the_api
def plan(api: Api, service_id: str, output: Format, **options: Any) -> int:
    """Say what a start would do, and do nothing.

    It takes the options of `aima service start`, and tells of every host whether it would do, and why not. Whether
    the weights are there is seen by the host only, when it starts.

    Ends with 0 if all would start now; with would_wait, or with the code of the refusal, if not.
    """
    from aima_api.cli.errors import tell
    from aima_api.client import path_of
    from aima_core.domain.ids import ServiceId
    from aima_core.errors import Failure, exit_code_of

    found = api.post(path_of("services", ServiceId(service_id)) + ":plan", service_body(options))
    if output == "table":
        _show(found)
    else:
        print_data(found, output)
    if found["failure"] is None:
        return 0
    failure = api.read(Failure, found["failure"])
    tell(failure)
    return exit_code_of(failure.code)


def _show(found: dict[str, Any]) -> None:
    model = f" and {found['model']}" if found["model"] else ""
    what = f"{found['service']} with {found['engine']}{model}"
    click.echo(sanitized(f"{what} {_WOULD.get(found['verdict'], found['verdict'])}."))
    click.echo(sanitized(f"Needed: {_needs(found['needs'])}, on a host of {' or '.join(found['routes'])}."))
    click.echo()
    if found["operations"]:
        columns = {"OPERATION": "kind", "TO": "route", "IMAGE": "image", "PORT": "port", "NOW": "now"}
        print_records([_readable(each) for each in found["operations"]], columns, "table", nothing="")
        click.echo()
    print_records(
        [_judged(each) for each in found["hosts"]],
        {"HOST": "host", "WOULD DO": "would_do", "WHY NOT": "why"},
        "table",
        nothing="No host has announced itself; `aima worker` on one does.",
    )


def _needs(needs: dict[str, Any]) -> str:
    from aima_core.domain.units import format_size

    told = [f"{format_size(needs['memory'])} memory", _counted(needs["cores"], "core")]
    if gpus := needs["gpus"]:
        told.append("all GPUs" if gpus == "all" else _counted(gpus, "GPU"))
    if size := needs["gpu_memory"]:
        told.append(f"{format_size(size)} GPU memory")
    return ", ".join(told)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _readable(operation: dict[str, Any]) -> dict[str, Any]:
    there = {True: " (is there)", False: " (to be pulled)"}.get(operation["image_there"], "")
    return {
        **operation,
        "image": operation["image"] and operation["image"] + there,
        "port": operation["port"] or "any free",
        "now": "waits" if operation["reason"] else "begins",
    }


def _judged(host: dict[str, Any]) -> dict[str, Any]:
    reasons = host["why_not"]
    later = bool(reasons) and all(reason["passes"] for reason in reasons)
    return {
        "host": host["host"],
        "would_do": "not now" if later else "no" if reasons else "yes",
        "why": "; ".join(reason["sentence"] for reason in reasons),
    }
