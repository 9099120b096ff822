"""`aima api`, `aima worker` and `aima flower`: this process becomes that one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click


@click.command()
@click.option("--bind", metavar="ADDRESS", help="Where to listen; 127.0.0.1 by default, others want a key.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="P", help="7080 by default.")
def api(bind: str | None, port: int | None) -> None:
    """Run an API node."""
    _become("aima_api", AIMA_API__BIND=bind, AIMA_API__PORT=port)


@click.command()
@click.option("--name", metavar="N", help="The host's name; the machine's by default.")
@click.option("--runtime", type=click.Choice(["auto", "docker", "docker-cli", "process"]), help="What engines run on.")
def worker(name: str | None, runtime: str | None) -> None:
    """Run this host's worker."""
    _become("aima_worker", AIMA_HOST__NAME=name, AIMA_RUNTIME=runtime)


@click.command()
@click.option("--bind", metavar="ADDRESS", help="Where to listen; 127.0.0.1 by default, others want a password.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="P", help="5555 by default.")
@click.option("--user", metavar="NAME", help="Who may look; aima by default.")
def flower(bind: str | None, port: int | None, user: str | None) -> None:
    """Run Flower, to look at workers, queues and tasks.

    The password is AIMA_FLOWER__PASSWORD; without one it is minted, and said where it lies.
    """
    _become("aima_api.flower", AIMA_FLOWER__BIND=bind, AIMA_FLOWER__PORT=port, AIMA_FLOWER__USER=user)


def _become(module: str, **settings: object) -> None:
    environment = os.environ | {name: str(value) for name, value in settings.items() if value is not None}
    os.execve(sys.executable, [sys.executable, "-m", module], environment)


@click.command()
@click.option(
    "--runtime",
    type=click.Choice(["auto", "docker", "docker-cli", "process"]),
    help="What engines run on; auto by default.",
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
