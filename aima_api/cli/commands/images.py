"""`aima image …`"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from aima_api.cli.completion import complete
from aima_api.cli.options import calls_the_api, host_option, output_option, service_body, timeout_option, wait_option
from aima_api.cli.tables import Format

if TYPE_CHECKING:
    from aima_api.client import Api


@click.group()
def image() -> None:
    """Fetch images before they are needed."""


@image.command()
@click.argument("image", metavar="[IMAGE]", required=False)
@click.option("--engine", metavar="E", shell_complete=complete("engines", "name"), help="The image of this engine.")
@host_option
@click.option(
    "--route",
    metavar="R",
    shell_complete=complete("hosts", "routes"),
    help="On every live host of this class, such as gb10.arm64.",
)
@wait_option
@timeout_option
@output_option
@calls_the_api
def pull(
    api: Api,
    image: str | None,
    engine: str | None,
    hosts: tuple[str, ...],
    route: str | None,
    wait: bool,
    timeout: timedelta | None,
    output: Format,
) -> int:
    """Pull IMAGE, or an engine's: an operation for each host, side by side.

    Without --host or --route, an engine's image goes to every live host that may run the engine, and any other IMAGE
    to the only live host there is. Where one of the hosts named may never have it, nothing is pulled at all.
    """
    from aima_api.cli.progress.watcher import submitted

    if (image is None) == (engine is None):
        raise click.UsageError("Give either an IMAGE or --engine.", click.get_current_context())
    if hosts and route:
        raise click.UsageError("--host and --route exclude each other.", click.get_current_context())
    body = service_body({"image": image, "engine": engine, "hosts": hosts, "route": route})
    return submitted(api, api.post("/v1/images:pull", body), wait=wait, timeout=timeout, output=output)
