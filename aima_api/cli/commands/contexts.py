"""`aima context …`: names of API nodes, stored on this machine; no command here sends a request."""

from __future__ import annotations

import sys
from typing import Any

import click

from aima_api.cli.contexts import ApiContext, StoredContexts, load_contexts, save_contexts, split_urls
from aima_api.cli.options import ResourceGroup, lists, output_option
from aima_api.cli.tables import Format, RecordList, print_record
from aima_api.client import Api

_FILE = click.Path(dir_okay=False, exists=True, resolve_path=True)


def _complete_name(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    from aima_core.errors import BadSettings

    try:
        return [name for name in load_contexts().contexts if name.startswith(incomplete)]
    except BadSettings:
        return []


name_argument = click.argument("name", shell_complete=_complete_name)


@click.group(cls=ResourceGroup)
def context() -> None:
    """Choose which API nodes, CA and key the commands use.

    --url and AIMA_URL take precedence over the current context, and AIMA_KEY over its key.
    """


@context.command("list")
@lists
def list_contexts() -> RecordList:
    """List the contexts."""
    stored = load_contexts()
    records = [_record(stored, name) for name in stored.contexts]
    columns = {"CONTEXT": "name", "CURRENT": "current", "URLS": "urls", "CA": "ca", "KEY": "key"}
    nothing = "No contexts. Create one with `aima context set NAME --url URL`."
    return RecordList(records, columns, nothing)


@context.command()
@name_argument
@output_option
def show(name: str, output: Format) -> None:
    """Show one context, without its key."""
    stored = load_contexts()
    _named(stored, name)
    print_record(_record(stored, name), output)


@context.command()
@name_argument
def use(name: str) -> None:
    """Make a context the current one."""
    stored = load_contexts()
    _named(stored, name)
    save_contexts(stored._replace(current=name))
    click.echo(f"Context {name} is current.")


@context.command("set")
@name_argument
@click.option("--url", "urls", metavar="URL[,URL...]", help="The API nodes; the next is tried when one is away.")
@click.option("--ca", type=_FILE, help="PEM file that the nodes' certificates are verified with.")
@click.option("--key-file", type=_FILE, help="File that holds the key; it is read by each command.")
@click.option("--key-stdin", is_flag=True, help="Read the key from stdin and store it with the context.")
def set_context(name: str, urls: str | None, ca: str | None, key_file: str | None, key_stdin: bool) -> None:
    """Create a context, or change the given options of one. The first context becomes the current one."""
    stored = load_contexts()
    if key_file and key_stdin:
        raise click.UsageError("Specify --key-file or --key-stdin.", click.get_current_context())
    if name not in stored.contexts and not urls:
        raise click.UsageError("Specify --url for a new context.", click.get_current_context())
    changes: dict[str, Any] = {"ca": ca} if ca else {}
    if urls:
        changes["urls"] = split_urls(urls)
        for url in changes["urls"]:
            Api(url)  # raises ApiUnavailable if it is malformed
    if key_file or key_stdin:
        changes |= {"key": _read_key() if key_stdin else None, "key_file": key_file}
    changed = stored.contexts.get(name, ApiContext(()))._replace(**changes)
    save_contexts(StoredContexts(stored.current or name, {**stored.contexts, name: changed}))
    click.echo(f"Context {name} {'changed' if name in stored.contexts else 'created'}.")


@context.command()
@name_argument
def remove(name: str) -> None:
    """Remove a context; a key file stays."""
    stored = load_contexts()
    _named(stored, name)
    others = {other: each for other, each in stored.contexts.items() if other != name}
    save_contexts(StoredContexts(None if stored.current == name else stored.current, others))
    click.echo(f"Context {name} removed.")


def _read_key() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Key", hide_input=True, err=True))
    return sys.stdin.readline().strip()


def _named(stored: StoredContexts, name: str) -> ApiContext:
    """Raises InvalidRequest."""
    if name not in stored.contexts:
        from aima_core.errors import InvalidRequest

        raise InvalidRequest(detail=f"Unknown context: {name}.", remedy="List contexts with `aima context list`.")
    return stored.contexts[name]


def _record(stored: StoredContexts, name: str) -> dict[str, Any]:
    """For people and programs; a stored key is never printed."""
    each = stored.contexts[name]
    key = each.key_file or ("stored" if each.key else None)
    return {"name": name, "current": name == stored.current, "urls": list(each.urls), "ca": each.ca, "key": key}
