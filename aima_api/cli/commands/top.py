"""`aima top`"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import click

from aima_api.cli.options import WATCH_INTERVAL, calls_the_api, output_option
from aima_api.cli.tables import Format, colours, print_data, print_records, titled
from aima_api.client import Api

_COLUMNS = {"HOST / INSTANCE": "name", **titled("cpu", "memory", "gpus", "restarts")}


@click.command()
@output_option
@calls_the_api
def top(api: Api, output: Format) -> int:
    """Show the CPU and memory that hosts and instances use.

    Also their restarts of the last 10 minutes, and allocated GPUs. On a terminal it refreshes until interrupted.

    The CPU of a host is in percent of all its cores, that of an instance in percent of one. `-` is not known.
    """
    from aima_api.cli.main import INTERRUPTED

    refreshes = output == "table" and colours()
    with suppress(KeyboardInterrupt):
        while True:
            hosts = api.get("/v1/hosts:usage")["items"]
            if output != "table":
                print_data(hosts, output)
                return 0
            if refreshes:
                click.clear()
            rows = [row for host in hosts for row in _rows(host)]
            print_records(rows, _COLUMNS, nothing="No hosts. Start a worker on one with `aima worker`.")
            if not refreshes:
                return 0
            time.sleep(WATCH_INTERVAL.total_seconds())
    return INTERRUPTED


def _rows(host: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The host, then its instances by the memory that they use."""
    from aima_core.domain.units import format_size

    usage = host["usage"] if host["live"] else None
    used = usage and f"{format_size(usage['memory'])} of {format_size(host['memory'])}"
    gpus = f"{host['gpus_allocated']} of {host['gpus']}" if host["gpus"] else None
    name = host["host"] if host["live"] else f"{host['host']} (away)"
    yield {"name": name, "cpu": usage and _percent(usage["cpu"]), "memory": used, "gpus": gpus}
    if usage:
        instances = usage["instances"].items()
        for id, each in sorted(instances, key=lambda item: -(item[1]["memory"] or 0)):
            memory = each["memory"] and format_size(each["memory"])
            row = {"cpu": _percent(each["cpu"]), "memory": memory, "restarts": str(each["restarts"])}
            yield {"name": f"  {id.partition('@')[0]}", **row}


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.0f} %"
