"""The console command `aima`: its lazily imported commands, and the process boundary that maps errors to exit codes."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import click

INTERRUPTED = 130
YOUNG_OBJECTS = 50_000
"""Between two garbage collections: with Python's 700, those of the imports take a sixth of a command's CPU time."""
URL_HELP = "API nodes, or AIMA_URL; by default those of the current context, else http://127.0.0.1:7080."

Sections = Mapping[str, Mapping[str, tuple[str, str]]]
"""Heading → command → its module in `commands` and attribute as `module:attribute`, and its summary."""
SECTIONS: Sections = {
    "Run AIMA": {
        "up": ("local:up", "Run all of AIMA on this machine, in the foreground."),
        "down": ("local:down", "Stop what `aima up` runs on this machine."),
        "api": ("local:api", "Run an API node."),
        "gateway": ("local:gateway", "Run a gateway: one endpoint for the models of all hosts."),
        "worker": ("local:worker", "Run this host's worker."),
        "flower": ("local:flower", "Run Flower, the web interface to workers, queues and tasks."),
        "doctor": ("local:doctor", "Check this machine, and show the command that fixes each problem."),
        "backup": ("local:backup", "Back up what only Redis holds to a file, while everything runs."),
        "restore": ("local:restore", "Restore what Redis has lost from a backup, while everything runs."),
        "redis-acl": ("local:redis_acl", "Print Redis users with least privilege, for its ACL file."),
    },
    "Deploy engines": {
        "service": ("services:service", "Create, start, stop and inspect services."),
        "apply": ("documents:apply", "Apply documents: services, aliases, and labels of hosts."),
        "diff": ("documents:diff", "Show what documents would change, without changing anything."),
        "export": ("documents:export", "Print services, aliases and labels of hosts as documents, for `aima apply`."),
        "profile": ("profiles:profile", "Show kinds of machines, and start the services recommended for one together."),
        "alias": ("aliases:alias", "Set, list, show and remove names of models for applications."),
        "plan": ("operations:plan", "Show what a start would do, without starting anything."),
        "operation": ("operations:operation", "List, watch and cancel operations."),
        "events": ("operations:events", "Show the events of all operations, and follow them."),
        "image": ("images:image", "List, pull and remove the images of hosts."),
    },
    "Use models": {
        "chat": ("inference:chat", "Chat with a model."),
        "embed": ("inference:embed", "Print the embeddings of texts."),
        "speak": ("inference:speak", "Speak a text into a WAV file."),
        "transcribe": ("inference:transcribe", "Print what is said in a recording."),
    },
    "Inspect": {
        "catalog": ("catalog:catalog", "Show and reload what an API node has loaded."),
        "engine": ("catalog:engine", "Show, validate and build the engines of the catalog."),
        "model": ("catalog:model", "Show the models of the catalog; pull, pin and remove them on hosts."),
        "host": ("hosts:host", "Show, drain, resume and forget hosts."),
        "top": ("top:top", "Show the CPU and memory that hosts and instances use."),
        "schema": ("catalog:schema", "Print the JSON Schema of a document or a catalog file, for editors."),
        "port": ("hosts:port", "Show the ports that instances hold."),
        "context": ("contexts:context", "Choose which API nodes, CA and key the commands use."),
    },
    "Control access": {
        "key": ("keys:key", "Create, list and revoke API keys, and rotate the signing key."),
        "audit": ("keys:audit", "Show who did what, from where, when, and with which outcome."),
    },
}


class LazyGroup(click.Group):
    def __init__(self, *, sections: Sections, **kwargs: Any) -> None:
        self._sections = sections
        self._homes = {name: home for section in sections.values() for name, (home, _) in section.items()}
        # click suggests near misses from the keys.
        super().__init__(commands={name: click.Command(name) for name in self._homes}, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 click's signature
        return list(self._homes)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 click's signature
        if cmd_name not in self._homes:
            return None
        module, _, attribute = self._homes[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"aima_api.cli.commands.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 click's signature
        width = max(map(len, self._homes))
        for heading, section in self._sections.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), summary) for name, (_, summary) in section.items()])


@click.group(
    cls=LazyGroup,
    sections=SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog='Completion: eval "$(_AIMA_COMPLETE=bash_source aima)" in ~/.bashrc; zsh_source and fish_source likewise.',
)
@click.option("--url", envvar="AIMA_URL", metavar="URL[,URL...]", help=URL_HELP)
@click.option("--ca", envvar="AIMA_CA", metavar="FILE", help="Verify an https API with this authority, or AIMA_CA.")
@click.option("--debug", is_flag=True, help="Show the traceback if AIMA has a bug.")
@click.version_option(package_name="aima-engines", message="aima %(version)s")
@click.pass_context
def root(ctx: click.Context, url: str | None, ca: str | None, debug: bool) -> None:  # noqa: ARG001 read where used
    """Deploy and operate AI inference engines on your hosts.

    Set AIMA_KEY to the API's key if it requires one. Every command has --help.
    """
    from aima_api.cli.tables import colour_allowed

    ctx.obj = url
    ctx.color = colour_allowed()


def main() -> None:
    gc.set_threshold(YOUNG_OBJECTS)
    sys.exit(run(sys.argv[1:]))


def run(words: Sequence[str]) -> int:
    """Executes one command line; returns its exit code."""
    try:
        code = _execute(words)
        sys.stdout.flush()  # here, where a full disk is reported, and not at the interpreter's exit
        return code
    except click.UsageError as misuse:
        command = misuse.ctx.command_path if misuse.ctx else "aima"
        click.echo(f"error: {misuse.format_message()}\nhint: Run `{command} --help` for its usage.", err=True)
        return misuse.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        return 1
    except Exception as error:  # noqa: BLE001 the process boundary: a traceback only with --debug
        from aima_api.cli.errors import UNWRITABLE, report_error

        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            _discard_stdout()
        return report_error(error, debug="--debug" in words)


def _execute(words: Sequence[str]) -> int:
    try:
        return int(root.main(list(words), prog_name="aima", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as bare:
        click.echo(bare.ctx.get_help(), color=bare.ctx.color)
        return 0


def _discard_stdout() -> None:
    """So that the interpreter's last flush does not fail, too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
