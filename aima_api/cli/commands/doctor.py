"""`aima doctor`"""

from __future__ import annotations

import dataclasses

import click

from aima_api.cli.options import output_option
from aima_api.cli.tables import Format, harmless, print_data

_MARKS = {"good": ("✓", "green"), "mind": ("!", "yellow"), "lacks": ("✗", "red")}


@click.command()
@output_option
def doctor(output: Format) -> int:
    """Say what this machine lacks, and what mends it."""
    from aima_api.doctor.checks import findings
    from aima_core.errors import MachineLacks
    from aima_core.settings import load_settings

    found = list(findings(load_settings()))
    lacking = [each.about for each in found if each.verdict == "lacks"]
    if output != "table":
        print_data([dataclasses.asdict(each) | {"verdict": each.verdict.value} for each in found], output)
        return MachineLacks.exit_code if lacking else 0
    for each in found:
        mark, colour = _MARKS[each.verdict]
        click.echo(f"{click.style(mark, fg=colour)} {each.about:<8}  {harmless(each.said)}")
        if each.mend:
            click.echo(f"  {'':<8}  {click.style('→ ' + harmless(each.mend), fg='cyan')}")
    if lacking:
        raise MachineLacks(what=", ".join(dict.fromkeys(lacking)))
    return 0
