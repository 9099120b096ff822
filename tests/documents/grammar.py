"""Checks command lines of documents, with placeholders and alternatives, against the commands of `aima`."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from aima_api.cli.main import root

_OPTION = re.compile(r"(?<![\w<])--?[a-z][a-z-]*")


def mistakes_in(line: str) -> list[str]:
    """The mistakes in `aima …`, one sentence each."""
    words = line.split()[1:]
    found = list(_walk(root, "aima", words))
    options = set(_OPTION.findall(" ".join(words)))
    known = {option for command, _ in found if command for option in _options_of(command)}
    unknown = [f"`{path}` is no command" for command, path in found if command is None]
    return unknown or [f"no option `{option}` in `{line}`" for option in sorted(options - known)]


def _walk(command: click.Command, path: str, words: list[str]) -> Iterator[tuple[click.Command | None, str]]:
    """The command and its subcommands that the words name; None for an unknown one."""
    yield command, path
    if not isinstance(command, click.Group):
        return
    rest = list(words)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if rest and _takes_a_value(command, option):
            rest.pop(0)
    if not rest or not re.fullmatch(r"[a-z][a-z|-]*", rest[0]):
        return
    context = click.Context(command)
    for name in rest[0].split("|"):
        if name == "aima":
            return
        below = command.get_command(context, name)
        if below is None:
            yield None, f"{path} {name}"
        else:
            yield from _walk(below, f"{path} {name}", rest[1:])


def _takes_a_value(command: click.Command, option: str) -> bool:
    return any(option in each.opts and isinstance(each, click.Option) and not each.is_flag for each in command.params)


def _options_of(command: click.Command) -> set[str]:
    named = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
    return named | {"--help", "-h", "--url", "--debug", "--version"}
