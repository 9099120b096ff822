"""A group of commands whose modules are imported when they are used, and not to list them."""

from __future__ import annotations

from collections.abc import Mapping
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
