"""`aima host …`"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from aima_api.cli.completion import complete
from aima_api.cli.options import calls_the_api, output_option, timeout_option, wait_option
from aima_api.cli.tables import Format, age, print_data, print_record, print_records
from aima_core.domain.units import format_size

if TYPE_CHECKING:
    from aima_api.client import Api

name_argument = click.argument("name", shell_complete=complete("hosts", "name"))


@click.group()
def host() -> None:
    """Show the hosts, and let them take starts or not."""


@host.command("list")
@output_option
@calls_the_api
def list_hosts(api: Api, output: Format) -> None:
    """List the hosts that have announced themselves."""
    from aima_api.cli.commands.hosts import columns_for, row

    hosts = api.every("/v1/hosts")
    rows = hosts if output != "table" else [row(each) for each in hosts]
    columns = columns_for(rows) if output == "table" else {}
    print_records(rows, columns, output, nothing="No host has announced itself; `aima worker` on one does.")


@host.command()
@name_argument
@output_option
@calls_the_api
def show(api: Api, name: str, output: Format) -> None:
    """Show one host."""
    from aima_api.cli.commands.hosts import record

    host = api.get(_path(name))
    print_record(host if output != "table" else record(host), output)


@host.command()
@name_argument
@click.option("--stop", is_flag=True, help="Stop what runs there, too.")
@wait_option
@timeout_option
@output_option
@calls_the_api
def drain(api: Api, name: str, stop: bool, wait: bool, timeout: timedelta | None, output: Format) -> int:
    """Let a host take no more starts. What runs there stays, unless --stop is given."""
    from aima_api.cli.progress.watcher import submitted

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


@host.command()
@name_argument
@calls_the_api
def forget(api: Api, name: str) -> None:
    """Forget a host that is gone for good, with all that is recorded of it."""
    api.delete(_path(name))
    click.echo(f"{name} is forgotten.")


def _path(name: str) -> str:
    from aima_api.client import path_of
    from aima_core.domain.ids import HostName

    return path_of("hosts", HostName(name))


CLOCK_MAY_BE_OFF = 1.0
"""Seconds."""
COLUMNS = {
    "HOST": "name",
    "STATE": "state",
    "ARCH": "arch",
    "ACCELERATORS": "accelerators",
    "CORES": "cores",
    "MEMORY": "memory",
    "RESERVE": "memory_reserve",
    "SLOTS": "slots",
    "DISK FREE": "disk_free",
    "RUNTIME": "runtime",
    "IMAGES": "images",
    "LABELS": "labels",
    "CLOCK": "clock_offset",
    "VERSION": "version",
    "SEEN": "seen",
}
ONLY_WHERE_TOLD = ("labels", "clock_offset")
"""Columns that most fleets leave empty."""
_TOLD_OTHERWISE = (
    "live",
    "left",
    "silent_for",
    "drained",
    "drained_since",
    "seen_at",
    "runtime_version",
    "runtime_answers",
    "container_runtimes",
    "unified_memory",
)
_DIGEST = len("sha256:") + 12
"""Characters of a digest that tell it from any other one on a host."""


def columns_for(hosts: list[dict[str, Any]]) -> dict[str, str]:
    """Of the rows in `hosts`, those worth a column."""
    empty = {field for field in ONLY_WHERE_TOLD if not any(host[field] for host in hosts)}
    return {heading: field for heading, field in COLUMNS.items() if field not in empty}


def row(host: dict[str, Any]) -> dict[str, Any]:
    """For a listing."""
    return {**record(host), "accelerators": _accelerators(host["accelerators"]), "images": len(host["images"])}


def record(host: dict[str, Any]) -> dict[str, Any]:
    """For itself, with every image."""
    first, last = host["ports"]
    return {
        **{name: value for name, value in host.items() if name not in _TOLD_OTHERWISE},
        "state": _state(host),
        "seen": age(host["seen_at"]),
        "accelerators": "\n".join(_accelerators(host["accelerators"])),
        "memory": format_size(host["memory"]) + (", shared by CPU and GPU" if host["unified_memory"] else ""),
        "memory_reserve": format_size(host["memory_reserve"]),
        "disk_free": format_size(host["disk_free"]),
        "runtime": _runtime(host),
        "images": "\n".join([str(len(host["images"])), *map(_image, host["images"])]),
        "ports": f"{first}-{last}",
        "clock_offset": _clock(host["clock_offset"]),
        "messages_dropped": host.get("messages_dropped") or None,
    }


def _state(host: dict[str, Any]) -> str:
    state = "live" if host["live"] else "away"
    since = host["drained_since"]
    return f"{state}, drained for {age(since)}" if since else state


def _accelerators(accelerators: list[dict[str, Any]]) -> list[str]:
    """Devices that are alike are one line, with their number."""
    counted = Counter(map(_accelerator, accelerators))
    return [f"{count} × {described}" if count > 1 else described for described, count in counted.items()]


def _accelerator(device: dict[str, Any]) -> str:
    memory = [format_size(device["memory"])] if device["memory"] else []
    capability = [f"compute {device['compute_capability']}"] if device["compute_capability"] else []
    return f"{device['name']} ({', '.join([device['kind'], *memory, *capability])})"


def _runtime(host: dict[str, Any]) -> str:
    runs_with = f" ({', '.join(host['container_runtimes'])})" if host["container_runtimes"] else ""
    answers = "" if host["runtime_answers"] else ", does not answer"
    return f"{host['runtime']} {host['runtime_version']}{runs_with}{answers}"


def _image(image: dict[str, Any]) -> str:
    reference: str = image["reference"]
    return f"{reference} ({image['digest'][:_DIGEST]})" if image["digest"] and "@" not in reference else reference


def _clock(offset: float) -> str | None:
    if abs(offset) <= CLOCK_MAY_BE_OFF:
        return None
    return f"{abs(offset):.1f} s {'ahead' if offset > 0 else 'behind'}"


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
