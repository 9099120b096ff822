"""`aima host …` and `aima port …`"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import click

from aima_api.cli.commands.images import described
from aima_api.cli.options import (
    ResourceGroup,
    calls_the_api,
    complete,
    having_labels,
    label_option,
    lists,
    on_full_id,
    output_option,
    timeout_option,
    wait_option,
)
from aima_api.cli.tables import Format, RecordList, age, print_data, print_record, titled
from aima_api.client import Api, ApiError, path_of
from aima_core.logs.sanitize import sanitized

COLUMNS = {
    "HOST": "name",
    **titled("state", "arch", "accelerators", "cores", "memory"),
    "RESERVE": "memory_reserve",
    **titled("slots", "disk_free", "runtime", "images", "labels"),
    "CLOCK": "clock_offset",
    **titled("version", "last_seen"),
}
_SHOWN_OTHERWISE = (
    *("live", "left", "silent_for", "drained", "drained_since", "seen_at", "strangers", "wire"),
    *("runtime_version", "runtime_answers", "container_runtimes", "unified_memory", "gives_gpus", "allows", "key"),
)

host = ResourceGroup("host", help="Show, drain, resume and forget hosts.")
port = ResourceGroup("port", help="Show the ports that instances hold.")
name_argument = click.argument("name", shell_complete=complete(("hosts", "name")))


@host.command("list")
@label_option
@lists
@calls_the_api
def list_hosts(api: Api, labels: tuple[tuple[str, object], ...]) -> RecordList:
    """List the hosts."""
    listing = api.get("/v1/hosts")
    hosts = having_labels(listing["items"], labels)
    optional = {"LABELS": any(each["labels"] for each in hosts), "CLOCK": any(map(_clock, hosts))}
    columns = {heading: field for heading, field in COLUMNS.items() if optional.get(heading, True)}
    for record in listing.get("unreadable", ()):
        click.echo(f"Unreadable in Redis, skipped: {sanitized(record)}. See `aima doctor`.", err=True)
    nothing = "No hosts. Start a worker on one with `aima worker`."
    return RecordList(hosts, columns, nothing, row=_row, wide=titled("address", "routes", "ports"))


@host.command()
@name_argument
@output_option
@calls_the_api
def show(api: Api, name: str, output: Format) -> None:
    """Show one host."""
    record = _on_full_name(api, name, lambda full: api.get(_path(full)))
    if output == "table":
        with suppress(ApiError):  # an API node of an earlier version has no such listing
            record["images"] = api.every("/v1/images", host=record["name"])
    print_record(record, output, row=_fields)


@host.command()
@name_argument
@click.option("--stop", is_flag=True, help="Also stop the instances there.")
@wait_option
@timeout_option
@output_option
@calls_the_api
def drain(api: Api, name: str, stop: bool, wait: bool, timeout: timedelta | None, output: Format) -> int:
    """Stop a host from taking starts and requests of gateways. Its instances run on unless --stop is given."""
    from aima_api.cli.progress.watcher import show_submitted

    def drain_one(full: str) -> Any:
        reply = api.post(_path(full) + ":drain", {"stop": stop})
        if output == "table":
            click.echo(f"Host {full} drained. It takes no starts until `aima host resume {full}`.")
        return reply

    reply = _on_full_name(api, name, drain_one)
    if stop and (output == "table" or wait or timeout is not None):
        return show_submitted(api, reply, wait=wait, timeout=timeout, output=output)
    if output != "table":
        print_data(reply, output)
    return 0


@host.command()
@name_argument
@output_option
@calls_the_api
def resume(api: Api, name: str, output: Format) -> None:
    """Let a drained host take starts again, pending ones first."""
    record = _on_full_name(api, name, lambda full: api.post(_path(full) + ":resume"))
    if output == "table":
        click.echo(
            f"Host {record['name']} resumed." + ("" if record["live"] else " It takes starts once its worker is back.")
        )
    else:
        print_data(record, output)


@host.command()
@name_argument
@calls_the_api
def forget(api: Api, name: str) -> None:
    """Remove a host that will not come back, with all its records."""
    api.delete(_path(name))
    click.echo(f"Host {name} forgotten.")


@port.command("list")
@lists
@calls_the_api
def list_ports(api: Api) -> RecordList:
    """List the leased ports and their holders."""
    columns = titled("host", "port", "holder", "age")
    return RecordList(api.every("/v1/ports"), columns, "No leased ports.", row=_lease_row)


def _on_full_name(api: Api, name: str, call: Callable[[str], Any]) -> Any:
    return on_full_id(api, "hosts", name, call, field="name")


def _path(name: str) -> str:
    from aima_core.domain.ids import HostName

    return path_of("hosts", HostName(name))


def _lease_row(lease: dict[str, Any]) -> dict[str, Any]:
    return {**lease, "age": age(lease["since"])}


def _row(host: dict[str, Any]) -> dict[str, Any]:
    """For a listing: images are counted."""
    from aima_core.domain.units import describe_accelerators

    return {**_fields(host), "accelerators": describe_accelerators(host["accelerators"]), "images": len(host["images"])}


def _fields(host: dict[str, Any]) -> dict[str, Any]:
    from aima_core.domain.units import describe_accelerators, format_size

    first, last = host["ports"]
    return {
        **{name: value for name, value in host.items() if name not in _SHOWN_OTHERWISE},
        "state": _state(host),
        "last_seen": "left" if host.get("left") else age(host["seen_at"]),
        "accelerators": "\n".join(describe_accelerators(host["accelerators"])),
        "memory": format_size(host["memory"]) + (", shared by CPU and GPU" if host["unified_memory"] else ""),
        "memory_low": _memory_low(host),
        "memory_reserve": format_size(host["memory_reserve"]),
        "disk_free": format_size(host["disk_free"]),
        "runtime": _runtime(host),
        "images": "\n".join([str(len(host["images"])), *map(described, host["images"])]),
        "containers_get_gpus": host["gives_gpus"],
        "allowed_images": host["allows"],
        "models": "\n".join(host.get("models") or ()),
        "ports": f"{first}-{last}",
        "clock_offset": _clock(host),
        "version": _version(host),
        "messages_dropped": host.get("messages_dropped") or None,
        "unrecognized_containers": host.get("strangers"),
    }


def _state(host: dict[str, Any]) -> str:
    states = ["live" if host["live"] else "away"]
    if host.get("memory_low") is not None:
        states.append("low memory")
    if since := host["drained_since"]:
        states.append(f"drained for {age(since)}")
    return ", ".join(states)


def _memory_low(host: dict[str, Any]) -> str | None:
    from aima_core.domain.units import format_size

    low = host.get("memory_low")
    return None if low is None else f"{format_size(low)} available: no starts below the reserve"


def _runtime(host: dict[str, Any]) -> str:
    runtimes = f" ({', '.join(host['container_runtimes'])})" if host["container_runtimes"] else ""
    availability = "" if host["runtime_answers"] else ", unavailable"
    return f"{host['runtime']} {host['runtime_version']}{runtimes}{availability}"


def _version(host: dict[str, Any]) -> str:
    """Names the version of the wire where it is not this one's: the host and this side differ in orders or labels."""
    from aima_core.domain.wire import WIRE_VERSION

    other = host.get("wire", 1) != WIRE_VERSION
    return f"{host['version']} (wire {host['wire']}, here {WIRE_VERSION})" if other else str(host["version"])


def _clock(host: dict[str, Any]) -> str | None:
    from aima_core.domain.units import CLOCK_TOLERANCE

    offset = timedelta(seconds=host["clock_offset"])
    if abs(offset) <= CLOCK_TOLERANCE:
        return None
    return f"{abs(offset).total_seconds():.1f} s {'ahead' if offset > timedelta() else 'behind'}"
