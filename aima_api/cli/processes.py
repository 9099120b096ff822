"""`aima api` and `aima worker`: this process becomes that one."""

from __future__ import annotations

import os
import sys

import click


@click.command()
@click.option("--bind", metavar="ADDRESS", help="Where to listen; 127.0.0.1 by default, others want a key.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="P", help="7080 by default.")
def api(bind: str | None, port: int | None) -> None:
    """Run an API node."""
    _become("aima_api", AIMA_API__BIND=bind, AIMA_API__PORT=port)


@click.command()
@click.option("--name", metavar="N", help="The host's name; the machine's by default.")
@click.option("--runtime", type=click.Choice(["auto", "docker", "process"]), help="What engines run on.")
def worker(name: str | None, runtime: str | None) -> None:
    """Run this host's worker."""
    _become("aima_worker", AIMA_HOST__NAME=name, AIMA_RUNTIME=runtime)


def _become(module: str, **settings: object) -> None:
    environment = os.environ | {name: str(value) for name, value in settings.items() if value is not None}
    os.execve(sys.executable, [sys.executable, "-m", module], environment)
