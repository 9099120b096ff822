"""The console command `aima`: the commands there are, and the one place where a command's end becomes an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import click

Sections = Mapping[str, Mapping[str, tuple[str, str]]]
"""Heading → command → its home as `module:attribute`, and its summary."""


class LazyGroup(click.Group):
    def __init__(self, *, sections: Sections, **kwargs: Any) -> None:
        self._sections = sections
        self._homes = {name: home for section in sections.values() for name, (home, _) in section.items()}
        # click looks for near misses among the keys.
        super().__init__(commands={name: click.Command(name) for name in self._homes}, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 click's signature
        return list(self._homes)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 click's signature
        if cmd_name not in self._homes:
            return None
        module, _, attribute = self._homes[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 click's signature
        width = max(map(len, self._homes))
        for heading, section in self._sections.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), summary) for name, (_, summary) in section.items()])


INTERRUPTED = 130
DEFAULT_URL = "http://127.0.0.1:7080"
COMMANDS = "aima_api.cli.commands"

SECTIONS: Sections = {
    "Run AIMA": {
        "up": (f"{COMMANDS}.processes:up", "Run all of AIMA on this machine, in the foreground."),
        "api": (f"{COMMANDS}.processes:api", "Run an API node."),
        "worker": (f"{COMMANDS}.processes:worker", "Run this host's worker."),
        "flower": (f"{COMMANDS}.processes:flower", "Run Flower, to look at workers, queues and tasks."),
        "doctor": (f"{COMMANDS}.doctor:doctor", "Say what this machine lacks, and what mends it."),
    },
    "Deploy engines": {
        "service": (f"{COMMANDS}.services:service", "Create, start, stop and look at services."),
        "plan": (f"{COMMANDS}.plan:plan", "Say what a start would do, and do nothing."),
        "operation": (f"{COMMANDS}.operations:operation", "Follow and cancel what is under way."),
        "image": (f"{COMMANDS}.images:image", "Fetch images before they are needed."),
    },
    "Look around": {
        "engine": (f"{COMMANDS}.catalog:engine", "Show and check the engines of the catalog."),
        "model": (f"{COMMANDS}.catalog:model", "Show the models of the catalog."),
        "host": (f"{COMMANDS}.hosts:host", "Show the hosts, and let them take starts or not."),
        "port": (f"{COMMANDS}.hosts:port", "Show the ports that engines hold."),
    },
}


@click.group(
    cls=LazyGroup,
    sections=SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog='Completion: eval "$(_AIMA_COMPLETE=bash_source aima)" in ~/.bashrc; zsh_source and fish_source likewise.',
)
@click.option(
    "--url", envvar="AIMA_URL", default=DEFAULT_URL, help="The API; AIMA_URL does the same.", show_default=True
)
@click.option("--debug", is_flag=True, help="Show the traceback of a mistake of AIMA's own.")
@click.version_option(package_name="aima-engines", message="aima %(version)s")
@click.pass_context
def root(ctx: click.Context, url: str, debug: bool) -> None:  # noqa: ARG001 run() looks for --debug itself
    """Deploy and operate AI inference engines on your hosts.

    AIMA_KEY holds the API's key where it wants one. Every command explains itself with --help.
    """
    ctx.obj = url


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(words: Sequence[str]) -> int:
    """Carry out one command line; its exit code."""
    try:
        return int(root.main(list(words), prog_name="aima", standalone_mode=False) or 0)
    except click.UsageError as wrong:
        return _misused(wrong)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush complains
        return 1
    except Exception as problem:  # noqa: BLE001 the process boundary: nobody reads a traceback unasked
        from aima_api.cli.errors import report

        return report(problem, debug="--debug" in words)


def _misused(wrong: click.UsageError) -> int:
    where = wrong.ctx.command_path if wrong.ctx else "aima"
    click.echo(f"error: {wrong.format_message()}\nhint: `{where} --help` shows what it takes.", err=True)
    return wrong.exit_code
