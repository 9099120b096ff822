"""`aima apply`, `aima diff` and `aima export`: desired state as documents in YAML."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import click

from aima_api.cli.options import (
    Command,
    calls_the_api,
    complete,
    on_full_id,
    output_option,
    timeout_option,
    wait_option,
)
from aima_api.cli.tables import Format, print_data
from aima_api.client import Api, ApiError, path_of
from aima_core.domain.units import counted
from aima_core.logs.sanitize import sanitized

if TYPE_CHECKING:
    from aima_api.specs.files import PlacedDocument

Change = Mapping[str, Any]
_SUMMARY = {
    "create": "to create",
    "change": "to change",
    "remove": "to remove",
    "unchanged": "unchanged",
    "refused": "refused",
}
_COLOURS = {"create": "green", "change": "yellow", "remove": "red"}


def _reads_documents(command: Command) -> Command:
    for option in (
        click.option("--prune", is_flag=True, help="Also remove what the owner applied before and no document names."),
        click.option("--owner", metavar="NAME", help="Record this owner with what is applied."),
        click.option(
            *("-f", "--file", "files"),
            multiple=True,
            required=True,
            metavar="FILE|DIR|-",
            help="A file, all YAML files below a directory, or standard input; repeat for several.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@_reads_documents
@click.option("--dry-run", is_flag=True, help="Show the changes only.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask on a terminal.")
@wait_option
@timeout_option
@output_option
@calls_the_api
def apply(
    api: Api, files: tuple[str, ...], owner: str | None, prune: bool, dry_run: bool, yes: bool, **how: Any
) -> int:
    """Apply documents: services, aliases, and labels of hosts.

    Shows the changes, asks on a terminal, and makes these changes or none. What a document leaves out has its default.
    `aima schema document` prints the fields.
    """
    placed, body = _documents(files, owner, prune)
    output: Format = how["output"]
    plan = api.post("/v1/apply:plan", body)
    if dry_run and output != "table":
        print_data(plan, output)
    elif output == "table":
        _print_changes(plan["items"])
    if code := _print_refusals(plan["items"], placed):
        return code
    if dry_run or all(each["action"] == "unchanged" for each in plan["items"]):
        return 0
    if not yes and sys.stdin.isatty() and sys.stdout.isatty() and not click.confirm("Apply these changes?"):
        click.echo("Nothing was changed.", err=True)
        return 0
    reply = api.post("/v1/apply", {**body, "expected": plan["digest"]})
    return _conclude(api, plan["items"], reply["operations"], **how)


@click.command()
@_reads_documents
@output_option
@calls_the_api
def diff(api: Api, files: tuple[str, ...], owner: str | None, prune: bool, output: Format) -> int:
    """Show what documents would change, without changing anything.

    Exits with 0 if everything is as they say, else with the code of drift.
    """
    from aima_core.errors import Drift

    placed, body = _documents(files, owner, prune)
    changes = api.post("/v1/apply:plan", body)["items"]
    if output == "table":
        _print_changes(changes)
    else:
        print_data(changes, output)
    if code := _print_refusals(changes, placed):
        return code
    if differing := [each for each in changes if each["action"] != "unchanged"]:
        raise Drift(number=len(differing), count=len(changes))
    return 0


@click.command()
@click.option(
    "--service",
    "services",
    multiple=True,
    metavar="ID",
    shell_complete=complete(("services", "id")),
    help="Only this service; repeat for several.",
)
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
@calls_the_api
def export(api: Api, services: tuple[str, ...], output: Format) -> int:
    """Print services, aliases and labels of hosts as documents, for `aima apply`.

    A service that is not to run has `desired: stopped`.
    """
    from aima_api.cli.errors import print_failure
    from aima_core.errors import Failure, exit_code_of

    ids = [
        on_full_id(api, "services", each, lambda id: str(api.get(path_of("services", id))["id"])) for each in services
    ]
    query = f"?{urlencode([('service', id) for id in ids])}" if ids else ""
    found = api.get(f"/v1/export{query}")
    if output == "json":
        print_data(found["documents"], output)
    else:
        click.echo(as_yaml(found["documents"]), nl=False)
    failures = [api.read(Failure, each) for each in found["failures"]]
    for each in failures:
        print_failure(each)
    return exit_code_of(failures[0].code) if failures else 0


def _documents(files: Sequence[str], owner: str | None, prune: bool) -> tuple[list[PlacedDocument], dict[str, Any]]:
    """With the body of the request. Raises DocumentMistake."""
    if prune and owner is None:
        raise click.UsageError("--prune requires --owner NAME.", click.get_current_context())
    from aima_api.specs.files import read_documents

    placed = read_documents(files)
    given = {"owner": owner, "prune": prune or None}
    body = {"documents": [each.document.plain() for each in placed]}
    return placed, body | {name: value for name, value in given.items() if value is not None}


def _conclude(
    api: Api,
    changes: Sequence[Change],
    operations: Sequence[dict[str, Any]],
    *,
    wait: bool,
    timeout: timedelta | None,
    output: Format,
) -> int:
    """Waits for the stops of pruned services, which are removed afterwards, unless their host is away."""
    from aima_api.cli.progress.watcher import show_submitted

    pruned = [each["name"] for each in changes if (each["kind"], each["action"]) == ("service", "remove")]
    first = [each for each in operations if each.get("service") in pruned]
    waiting = {each["service"]: each["route"].removeprefix("host.") for each in first if each.get("reason")}
    first = [each for each in first if each["service"] not in waiting]
    others = [each for each in operations if each not in first]
    code = 0
    if first:
        code = show_submitted(api, {"operations": first}, wait=True, timeout=timeout, output="table")
    for id in pruned:
        if id in waiting:
            note = f"Service {id} waits to be stopped by {waiting[id]}; prune again once it is stopped."
            click.echo(sanitized(note), err=True)
        elif not code:
            _remove(api, id)
    if others or output != "table":
        code = show_submitted(api, {"operations": others}, wait=wait, timeout=timeout, output=output) or code
    return code


def _remove(api: Api, id: str) -> None:
    try:
        api.delete(path_of("services", id))
    except ApiError as refused:
        if refused.failure.code != "unknown_service":  # the apply has removed it: it ran nowhere
            raise
    click.echo(f"Service {sanitized(id)} removed.", err=True)


def _print_refusals(changes: Sequence[Change], placed: Sequence[PlacedDocument]) -> int:
    """With the places of their documents; 0 if there is none."""
    from aima_core.errors import DocumentsRefused

    at = {(each.document.kind, each.document.subject): each.at for each in placed}
    refused = [each for each in changes if each["failure"]]
    for each in refused:
        place, failure = at.get((each["kind"], each["name"]), each["kind"]), each["failure"]
        text = f"{place}: {each['name']} [{failure['code']}]: {failure['message']}"
        click.echo(f"{click.style('✗', fg='red')} {sanitized(text)}\n  hint: {sanitized(failure['hint'])}", err=True)
    if refused:
        click.echo(f"Nothing was changed: {counted(len(refused), 'document')} refused.", err=True)
    return DocumentsRefused.exit_code if refused else 0


# The changes --------------------------------------------------------------------------------------------------------


def _print_changes(changes: Sequence[Change]) -> None:
    for change in changes:
        if change["action"] in _COLOURS:
            action = click.style(f"{change['action']:<6}", fg=_COLOURS[change["action"]])
            click.echo(f"{action}  {change['kind']} {sanitized(change['name'])}")
            for line in (*map(_field, change["fields"]), *map(_instance, change["instances"])):
                if line:
                    click.echo(f"  {sanitized(line)}")
    counts = Counter(each["action"] for each in changes)
    parts = [f"{counts[action]} {words}" for action, words in _SUMMARY.items() if counts[action]]
    click.echo(f"{counted(len(changes), 'document')}: {', '.join(parts)}.")


def _field(change: Mapping[str, Any]) -> str:
    name, before, after = change["field"], _value(change["before"]), _value(change["after"])
    if change["before"] is None:
        return f"+ {name}: {after}"
    return f"- {name}: {before}" if change["after"] is None else f"~ {name}: {before} → {after}"


def _instance(instance: Mapping[str, Any]) -> str | None:
    """None if it is unchanged."""
    if instance["action"] == "unchanged":
        return None
    where = instance["host"] or f"a host of {instance['route']}"
    moved = f" from {instance['moved_from']}" if instance["moved_from"] else ""
    because = [", ".join(instance["fields"])] if instance["fields"] else []
    because += [instance["reason"].rstrip(".")] if instance["reason"] else []
    return f"→ {instance['action']} on {where}{moved}" + (f" ({'; '.join(because)})" if because else "")


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def as_yaml(documents: Sequence[dict[str, Any]]) -> str:
    """In ASCII: other characters are escaped, so that the text is safe to show and reads back as it was."""
    import yaml

    return "---\n".join(yaml.safe_dump(each, sort_keys=False, width=1000) for each in documents)
