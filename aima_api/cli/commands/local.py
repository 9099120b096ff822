"""Commands that act on this machine and its Redis, such as `aima up`, `worker`, `doctor` and `backup`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aima_api.cli.options import output_option
from aima_api.cli.tables import Format, print_data
from aima_core.logs.sanitize import sanitized, sanitized_lines

if TYPE_CHECKING:
    from aima_core.settings import Settings

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "red")}
_RUNTIMES = click.Choice(["auto", "docker", "docker-cli", "process"])


_state_dir_option = click.option(
    "--state-dir", type=click.Path(file_okay=False, path_type=Path), help="~/.local/state/aima by default."
)


@click.command()
@click.option("--runtime", type=_RUNTIMES, help="What runs the engines; auto by default.")
@_state_dir_option
@click.option("--port", type=click.IntRange(0, 65535), metavar="P", help="Port of the API; 7080 by default, 0: any.")
@click.option(
    "--gateway-port", type=click.IntRange(0, 65535), metavar="P", help="Port of the gateway; 7090 by default, 0: any."
)
@click.option("--detach", is_flag=True, help="Run in the background; returns once everything is ready.")
@click.option("--detached", is_flag=True, hidden=True)
def up(
    runtime: str | None,
    state_dir: Path | None,
    port: int | None,
    gateway_port: int | None,
    detach: bool,
    detached: bool,
) -> int:
    """Run all of AIMA on this machine, in the foreground.

    Runs an API node, a gateway, this host's worker, and a Redis if none is configured. Ctrl-C stops them, a second
    Ctrl-C kills them; `aima down` stops them from elsewhere. Engines keep running, and the next `aima up` adopts them.
    """
    from aima_api.up.app import run

    if detach:
        options = {
            "--runtime": runtime,
            "--state-dir": state_dir and state_dir.resolve(),
            "--port": port,
            "--gateway-port": gateway_port,
        }
        return _detach(state_dir, [f"{name}={value}" for name, value in options.items() if value is not None])
    return run(runtime=runtime, state_dir=state_dir, port=port, gateway_port=gateway_port, detached=detached)


def _detach(state_dir: Path | None, options: list[str]) -> int:
    from aima_api.cli.contexts import DEFAULT_URL
    from aima_api.up.detached import Failed, running, start

    directory = _state_dir(state_dir)
    already = running(directory)
    found = already or start([sys.executable, "-m", "aima_api.cli", "up", "--detached", *options], directory)
    if isinstance(found, Failed):
        click.echo(sanitized_lines(found.lines), err=True, nl=False)
        return found.exit_code
    click.echo(f"AIMA is {'already ' if already else ''}up, as process {found.pid}: {found.url}")
    click.echo(f"Its log is {found.log}." if found.log else "It runs in the foreground of another terminal.")
    if found.url != DEFAULT_URL:
        click.echo(f"For other commands: export AIMA_URL={found.url}")
    click.echo("Stop it with `aima down`; engines keep running.")
    return 0


@click.command()
@_state_dir_option
@click.option("--engines", is_flag=True, help="First stop all services; they keep running by default.")
def down(state_dir: Path | None, engines: bool) -> int:
    """Stop what `aima up` runs on this machine.

    Engines keep running, and the next `aima up` adopts them, unless --engines is given. Without an `aima up` it does
    nothing.
    """
    from aima_api.up.detached import running, stop

    directory = _state_dir(state_dir)
    if engines and (found := running(directory)) and (failed := _stop_services(found.url)):
        return failed
    if (pid := stop(directory)) is None:
        click.echo(f"AIMA is not up here: no process locks {directory}.")
    else:
        click.echo(f"AIMA is down (process {pid})." + ("" if engines else " Engines keep running."))
    return 0


def _stop_services(url: str) -> int:
    """Returns 0 once all are stopped, else the exit code of the first failure."""
    from aima_api.cli.contexts import open_api
    from aima_api.cli.progress.watcher import show_submitted
    from aima_api.client import path_of

    with open_api(url) as api:
        running = [each["id"] for each in api.every(path_of("services")) if each["instances"]]
        replies = [api.post(f"{path_of('services', service)}:stop") for service in running]
        submitted = {"operations": [operation for reply in replies for operation in reply["operations"]]}
        return show_submitted(api, submitted, wait=True, timeout=None, output="table") if running else 0


def _state_dir(state_dir: Path | None) -> Path:
    from aima_api.up.app import directory_of

    return directory_of(_settings(state_dir))


def _settings(state_dir: Path | None) -> Settings:
    from aima_core.settings import load_settings

    return load_settings(**({"state_dir": state_dir} if state_dir else {}))


_file_argument = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@click.command()
@_file_argument
@_state_dir_option
def backup(file: Path, state_dir: Path | None) -> None:
    """Back up what only Redis holds to a file, while everything runs.

    Reads the Redis of this machine's settings, or that of `aima up`. The file is for its owner only: it holds digests
    of API keys.
    """
    from aima_api.backup import made_from, opened, write

    with opened(_settings(state_dir)) as (redis, _):
        made = made_from(redis)
    write(file, made)
    click.echo(f"{file}: {_counted(made.counts())}.")


@click.command()
@_file_argument
@_state_dir_option
def restore(file: Path, state_dir: Path | None) -> None:
    """Restore what Redis has lost from a backup, while everything runs.

    What Redis has got since is kept, and nothing is started or stopped. An API key that was revoked after the backup is
    valid again: revoke it once more.
    """
    from aima_api.backup import opened, read
    from aima_api.backup import restore as restore_into

    stored = read(file)
    with opened(_settings(state_dir)) as (redis, trusted):
        unverified = restore_into(redis, stored, trusted)
    click.echo(f"Restored what Redis lacked of {_counted(stored.counts())}, as of {stored.at:%Y-%m-%d %H:%M:%S} UTC.")
    if unverified:
        click.echo(f"Left out, since their specs do not verify with this machine's keys: {', '.join(unverified)}.")


def _counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in numbers.items())


@click.command()
@click.option("--bind", metavar="ADDRESS", help="Address to listen on; 127.0.0.1 by default, others require a key.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="P", help="7080 by default.")
def api(bind: str | None, port: int | None) -> None:
    """Run an API node."""
    _execute("aima_api", AIMA_API__BIND=bind, AIMA_API__PORT=port)


@click.command()
@click.option("--bind", metavar="ADDRESS", help="Address to listen on; 127.0.0.1 by default.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="P", help="7090 by default.")
def gateway(bind: str | None, port: int | None) -> None:
    """Run a gateway: one endpoint for the models of all hosts.

    It answers as OpenAI's API does, and Anthropic's messages.
    """
    _execute("aima_api.gateway", AIMA_GATEWAY__BIND=bind, AIMA_GATEWAY__PORT=port)


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
    the password.
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
