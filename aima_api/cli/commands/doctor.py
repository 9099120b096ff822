"""`aima doctor`"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aima_api.cli.options import output_option
from aima_api.cli.tables import Format, print_data
from aima_core.logs.sanitize import sanitized

if TYPE_CHECKING:
    from aima_api.doctor.finding import Finding

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
        print_data([_as_data(each) for each in found], output)
        return MachineLacks.exit_code if lacking else 0
    for each in found:
        mark, colour = _MARKS[each.verdict]
        click.echo(f"{click.style(mark, fg=colour)} {each.about:<8}  {sanitized(each.message)}")
        if each.fix:
            click.echo(f"  {'':<8}  {click.style('→ ' + sanitized(each.fix), fg='cyan')}")
    if lacking:
        raise MachineLacks(what=", ".join(dict.fromkeys(lacking)))
    return 0


def _as_data(finding: Finding) -> dict[str, str | None]:
    return {"about": finding.about, "verdict": finding.verdict.value, "said": finding.message, "mend": finding.fix}
