"""`aima up`"""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--runtime", type=click.Choice(["auto", "docker", "process"]), help="What engines run on; auto by default."
)
@click.option("--state-dir", type=click.Path(file_okay=False, path_type=Path), help="~/.local/state/aima by default.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="P", help="The API's; 7080 by default, 0 takes any.")
def up(runtime: str | None, state_dir: Path | None, port: int | None) -> int:
    """Run all of AIMA on this machine, in the foreground.

    Brings its own Redis where none is given, an API node and this host's worker. Ctrl-C stops them, a second Ctrl-C
    at once. What was there comes back with the next `aima up`.
    """
    from aima_api.up.app import run

    return run(runtime=runtime, state_dir=state_dir, port=port)
