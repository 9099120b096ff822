"""Commands that act on this machine: `aima up`, `api`, `worker`, `flower`, `doctor` and `redis-acl`."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import click

from aima_api.cli.options import output_option
from aima_api.cli.tables import Format, print_data
from aima_core.logs.sanitize import sanitized

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "red")}
_RUNTIMES = click.Choice(["auto", "docker", "docker-cli", "process"])


@click.command()
@click.option("--runtime", type=_RUNTIMES, help="What runs the engines; auto by default.")
@click.option("--state-dir", type=click.Path(file_okay=False, path_type=Path), help="~/.local/state/aima by default.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="P", help="Port of the API; 7080 by default, 0: any.")
def up(runtime: str | None, state_dir: Path | None, port: int | None) -> int:
    """Run all of AIMA on this machine, in the foreground.

    Runs an API node, this host's worker, and a Redis if none is configured. Ctrl-C stops them, a second Ctrl-C kills
    them. Engines keep running, and the next `aima up` adopts them.
    """
    from aima_api.up.app import run

    return run(runtime=runtime, state_dir=state_dir, port=port)


@click.command()
@click.option("--bind", metavar="ADDRESS", help="Address to listen on; 127.0.0.1 by default, others require a key.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="P", help="7080 by default.")
def api(bind: str | None, port: int | None) -> None:
    """Run an API node."""
    _execute("aima_api", AIMA_API__BIND=bind, AIMA_API__PORT=port)


@click.command()
@click.option("--name", metavar="N", help="Name of the host; the machine's by default.")
@click.option("--runtime", type=_RUNTIMES, help="What runs the engines; auto by default.")
def worker(name: str | None, runtime: str | None) -> None:
    """Run this host's worker."""
    _execute("aima_worker", AIMA_HOST__NAME=name, AIMA_RUNTIME=runtime)


@click.command()
@click.option(
    "--bind", metavar="ADDRESS", help="Address to listen on; 127.0.0.1 by default, others require a password."
)
@click.option("--port", type=click.IntRange(0, 65535), metavar="P", help="5555 by default.")
@click.option("--user", metavar="NAME", help="User name; aima by default.")
def flower(bind: str | None, port: int | None, user: str | None) -> None:
    """Run Flower, the web interface to workers, queues and tasks.

    AIMA_FLOWER__PASSWORD sets the password; without it one is generated, and its file printed.
    """
    _execute("aima_api.flower", AIMA_FLOWER__BIND=bind, AIMA_FLOWER__PORT=port, AIMA_FLOWER__USER=user)


@click.command()
@output_option
def doctor(output: Format) -> int:
    """Check this machine, and show the command that fixes each problem."""
    from aima_api.doctor.checks import CheckStatus, findings
    from aima_core.errors import MachineLacks
    from aima_core.settings import load_settings

    found = list(findings(load_settings()))
    failed = [each.about for each in found if each.verdict is CheckStatus.FAILED]
    if output != "table":
        records = [(each.about, each.verdict.value, each.message, each.fix) for each in found]
        print_data([dict(zip(("check", "status", "message", "fix"), each, strict=True)) for each in records], output)
        return MachineLacks.exit_code if failed else 0
    for each in found:
        mark, colour = _MARKS[each.verdict]
        click.echo(f"{click.style(mark, fg=colour)} {each.about:<10}  {sanitized(each.message)}")
        if each.fix:
            click.echo(f"  {'':<10}  {click.style('→ ' + sanitized(each.fix), fg='cyan')}")
    if failed:
        raise MachineLacks(what=", ".join(dict.fromkeys(failed)))
    return 0


@click.command("redis-acl")
@click.option(
    "--role",
    "roles",
    type=click.Choice(["api", "worker", "gateway", "flower"]),
    multiple=True,
    help="All by default; may be repeated.",
)
@click.option(
    "--host", "hosts", metavar="NAME", multiple=True, help="A worker's user for this host alone; may be repeated."
)
@click.option(
    "--database",
    type=click.IntRange(0),
    metavar="N",
    default=0,
    help="The number at the end of `redis.url`; 0 by default.",
)
@click.option("--variables", is_flag=True, help="Passwords as `>$REDIS_AIMA_…_PASSWORD`, for envsubst.")
@click.option("--generate", is_flag=True, help="Generate passwords, and print them with the users.")
@click.option("--setuser", is_flag=True, help="Print commands for redis-cli instead of an ACL file.")
@click.option(
    "--redis",
    "server",
    type=click.Choice(["7.0", "7.2"]),
    default="7.2",
    help="Redis 7.0, or 7.2 and later, or Valkey; 7.2 by default.",
)
def redis_acl(
    roles: tuple[str, ...],
    hosts: tuple[str, ...],
    database: int,
    variables: bool,
    generate: bool,
    setuser: bool,
    server: str,
) -> None:
    """Print Redis users with least privilege, for its ACL file.

    Without --variables or --generate, each password is a placeholder that Redis refuses: replace it by the SHA-256 of
    the password. The gateway's user is prepared: no gateway reads Redis yet.
    """
    from secrets import token_urlsafe

    from aima_core.domain.ids import HostName
    from aima_core.redis.acl import Role, users

    if variables and generate:
        raise click.UsageError("--variables and --generate exclude each other.")
    for user in users(map(Role, roles or Role), hosts=[HostName(host) for host in hosts], database=database):
        variable = re.sub("[-.]", "_", f"redis-{user.name}-password").upper()  # not AIMA_…: those are settings
        password = f">{token_urlsafe(32)}" if generate else f">${variable}" if variables else "#SHA256_OF_ITS_PASSWORD"
        start = f"ACL SETUSER {user.name} reset" if setuser else f"user {user.name}"
        click.echo(f"{start} {user.rules(password, client_info=server != '7.0')}")


def _execute(module: str, **settings: object) -> None:
    """Replaces this process, so that signals reach it directly."""
    environment = os.environ | {name: str(value) for name, value in settings.items() if value is not None}
    os.execve(sys.executable, [sys.executable, "-m", module], environment)
