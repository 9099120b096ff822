"""`aima catalog …`, `aima engine …`, `aima model …` and `aima schema`"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from aima_api.cli.options import (
    ResourceGroup,
    calls_the_api,
    complete,
    expires_option,
    hosts_option,
    lists,
    only_hosts_option,
    output_option,
    route_option,
    submits_operations,
    timeout_option,
    wait_option,
)
from aima_api.cli.service_options import service_body
from aima_api.cli.tables import Format, RecordList, age, indented, print_data, print_record, print_records, titled
from aima_api.client import Api, path_of
from aima_core.domain.units import counted
from aima_core.logs.sanitize import sanitized, sanitized_lines

catalog = ResourceGroup("catalog", help="Show and reload what an API node has loaded.")
engine = ResourceGroup("engine", help="Show, validate and build the engines of the catalog.")
model = ResourceGroup("model", help="Show the models of the catalog; pull, pin and remove them on hosts.")

MOST_HOSTS = 3
"""Named in a row of a table."""
_BUILT_HERE = "aima/"
"""The images that are built on the hosts."""


@catalog.command("show")
@output_option
@calls_the_api
def show_catalog(api: Api, output: Format) -> int:
    """Show what the API node has loaded, and the mistakes that keep newer files out."""
    return _show_catalog(api.get("/v1/catalog"), output)


@catalog.command()
@output_option
@calls_the_api
def reload(api: Api, output: Format) -> int:
    """Read the overlay directory of the API node again.

    Every node reads its files again by itself within seconds of a change, and on SIGHUP. With a mistake in any of them,
    the previous catalog stays in force.
    """
    return _show_catalog(api.post("/v1/catalog:reload"), output)


@click.command()
@click.argument("kind", type=click.Choice(["document", "engine", "model", "profile"]))
def schema(kind: str) -> None:
    """Print the JSON Schema of a document or a catalog file, for editors.

    With it in engine.schema.json, the first line `# yaml-language-server: $schema=engine.schema.json` of a file gives
    completion and marks mistakes.
    """
    from aima_api.catalog import loader
    from aima_api.specs import documents

    found = documents.json_schema() if kind == "document" else loader.json_schema(kind)
    click.echo(json.dumps(found, indent=2, ensure_ascii=False))


@engine.command("list")
@lists
@calls_the_api
def list_engines(api: Api) -> RecordList:
    """List the engines."""
    columns = {"ENGINE": "name", **titled("type", "image", "platforms", "accelerator")}
    nothing, wide = "No engines in the catalog.", titled("cores", "memory", "image_size")
    return RecordList(api.every("/v1/engines"), columns, nothing, row=_engine_row, wide=wide)


@engine.command("show")
@click.argument("name", shell_complete=complete(("engines", "name")))
@output_option
@calls_the_api
def show_engine(api: Api, name: str, output: Format) -> None:
    """Show one engine."""
    print_record(api.get(path_of("engines", name)), output, row=_readable)


@engine.command()
@click.argument("path", metavar="[PATH]", required=False, type=click.Path(exists=True, path_type=Path))
@output_option
def validate(path: Path | None, output: Format) -> int:
    """Validate the catalog files under PATH, or all that AIMA would read here."""
    from aima_api.catalog import loader
    from aima_core.errors import CatalogMistake
    from aima_core.settings import load_settings

    overlay = None if path else load_settings().api.catalog
    roots = [path] if path else [loader.SHIPPED, *([overlay] if overlay else [])]
    mistakes = [each for root in roots for each in loader.find_mistakes(root)]
    files = sum(map(_files_below, roots))
    if output != "table":
        found = [dataclasses.asdict(each) | {"file": str(each.file)} for each in mistakes]
        print_data({"files": files, "mistakes": found}, output)
    elif mistakes:
        for mistake in mistakes:
            click.echo(indented(str(mistake)), err=True)
        click.echo(f"{counted(len(mistakes), 'mistake')} in {counted(files, 'file')}", err=True)
    else:
        click.echo(f"{counted(files, 'file')} valid")
    return CatalogMistake.exit_code if mistakes else 0


@engine.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete(("engines", "name")))
@click.option("--native", is_flag=True, help="Install the program below ~/.local, for hosts without Docker.")
def build(names: tuple[str, ...], native: bool) -> int:
    """Build the images of engines that come with AIMA, on this machine. Without NAME, list these engines."""
    from aima_api.catalog import loader

    available = {
        str(each.name): each.image for each in loader.load_catalog().engines if each.image.startswith(_BUILT_HERE)
    }
    if not names:
        click.echo("\n".join(available))
        return 0
    for name in names:
        if name not in available:
            problem = f"There is no build of `{name}`; choose one of {', '.join(available)}."
            raise click.BadArgumentUsage(problem, click.get_current_context())
    folders = [available[name].removeprefix(_BUILT_HERE).partition(":")[0] for name in names]
    script = loader.BUILDS / ("install-native" if native else "build")
    return subprocess.run([sys.executable, str(script), *folders], check=False).returncode


@model.command("list")
@click.option(
    "--host", metavar="H", shell_complete=complete(("hosts", "name")), help="What is on this host; * for all."
)
@lists
@calls_the_api
def list_models(api: Api, host: str | None) -> RecordList:
    """List the models, the services that start them, and the hosts that have or could run them.

    With --host, list the models there instead: how far each revision is fetched, whether its files were verified, and
    what uses it, or how long ago an engine last had it mounted.
    Files that people put below a model root are `by hand`: they can be used, and nothing verifies or removes them.
    """
    if host is not None:
        stored = api.every("/v1/models:stored", host=None if host == "*" else host)
        columns = titled("model", "host", "size", "state", "revision", "used_by", "last_used")
        return RecordList(stored, columns, "No models.", row=_stored_row, wide=titled("where", "name"))
    columns = {"MODEL": "name", **titled("type", "size", "service", "files_on", "could_run_on")}
    nothing = "No models in the catalog."
    return RecordList(api.every("/v1/models"), columns, nothing, row=_model_row, wide=titled("engines", "path"))


@model.command("show")
@click.argument("name", shell_complete=complete(("models", "name")))
@output_option
@calls_the_api
def show_model(api: Api, name: str, output: Format) -> None:
    """Show one model, the services that start it, and the hosts that have or could run it."""
    print_record(api.get(path_of("models", name)), output, row=_model_fields)


@model.command("pull")
@click.argument("name", shell_complete=complete(("models", "name")))
@only_hosts_option
@route_option("On every live host of this class, such as gb10.arm64.")
@click.option("--site", metavar="S", help="On every live host of this site.")
@expires_option
@submits_operations
def pull_model(
    api: Api, name: str, hosts: tuple[str, ...], route: str | None, site: str | None, expires: timedelta | None
) -> Any:
    """Fetch the files of a model from its source in the catalog, on several hosts in parallel.

    Its source is resolved first, so that all hosts get the same files. Hosts of one site download each piece once, and
    send it to one another. Without --host, --route or --site, the only live host fetches it. Files and pieces that the
    host has are not fetched again.
    """
    if hosts and (route or site):
        raise click.UsageError("Specify --host, or --route and --site.", click.get_current_context())
    options = service_body({"hosts": hosts, "route": route, "site": site, "expires": expires})
    return api.post(f"{path_of('models', name)}:pull", options)


@model.command("add")
@click.argument("source", metavar="SOURCE")
@click.option(
    "--engine", metavar="E", shell_complete=complete(("engines", "name")), help="That serves it: a name or a type."
)
@click.option("--name", metavar="N", help="Instead of the repository's.")
@click.option("--files", metavar="PATTERN", multiple=True, help="Which files are fetched; repeat for several.")
@click.option("--host", metavar="H", help="Of file:/DIRECTORY: the host that has it.")
@click.option(
    "--to", metavar="DIR", type=click.Path(file_okay=False, path_type=Path), help="The overlay; else api.catalog."
)
def add_model(
    source: str, engine: str | None, name: str | None, files: tuple[str, ...], host: str | None, to: Path | None
) -> None:
    """Write a model's entry into the catalog overlay on this machine, after looking at its repository or directory.

    SOURCE is such as hf:Qwen/Qwen3-32B, hf:org/repo@revision or modelscope:org/repo. One set of weights is chosen:
    safetensors for vLLM, four bits (Q4_K_M) in GGUF for llama.cpp. Where that is ambiguous, all sets are listed with
    their sizes. file:/DIRECTORY with --host H is for files that only this host has: run it there, or on a machine with
    the same directory; all its files are read for their digests. API nodes whose api.catalog is this directory read the
    entry within seconds.
    """
    from aima_api.catalog import loader
    from aima_api.models.proposal import draft
    from aima_core.domain.ids import ServiceId
    from aima_core.errors import InvalidRequest, ModelExists
    from aima_core.settings import load_settings

    if host is not None and not source.startswith("file:"):
        raise click.UsageError("--host is for a SOURCE such as file:/srv/models/mine.", click.get_current_context())
    source = f"{source.rstrip('/')}@{host}" if host else source
    overlay = to or load_settings().api.catalog
    if overlay is None:
        detail, remedy = "There is no catalog overlay.", "Name its directory by `--to`, and in `api.catalog`."
        raise InvalidRequest(detail=detail, remedy=remedy)
    loaded = loader.load_catalog(*([overlay] if loader.is_catalog(overlay) else []))
    made = draft(source, loaded.engines, engine=engine, name=name, files=files)
    if known := next((each for each in loaded.models if each.id == made.model.id), None):
        raise ModelExists(model=known.name, where="`aima model show` prints it")
    text = loader.model_text(made.entry, made.notes)
    file = loader.add_model(overlay, made.model, text)
    click.echo(f"Wrote {sanitized(str(file))}:\n")
    click.echo(f"  {indented(sanitized_lines(text))}\n")
    service = ServiceId.of(
        next(each.type for each in loaded.engines if each.name == made.model.engines[0]), made.model.id
    )
    click.echo(
        f"Fetch it with `aima model pull {made.model.name} --host H`, or start it: `aima service start {service}`."
    )


@model.command("remove")
@click.argument("name", shell_complete=complete(("models", "name")))
@hosts_option("Only from this host; repeat for several.")
@expires_option
@submits_operations
def remove_model(api: Api, name: str, hosts: tuple[str, ...], expires: timedelta | None) -> Any:
    """Remove a fetched model, by default from every live host that has it.

    A model that is pinned, or that an instance or a running operation uses, is not removed, nor are files that people
    put there.
    """
    return api.post(f"{path_of('models', name)}:remove", service_body({"hosts": hosts, "expires": expires}))


@model.command("pin")
@click.argument("name", shell_complete=complete(("models", "name")))
@only_hosts_option
@expires_option
@submits_operations
def pin_model(api: Api, name: str, hosts: tuple[str, ...], expires: timedelta | None) -> Any:
    """Pin a fetched model, by default on every live host that has it: it is neither collected nor removed.

    The host keeps the pin, for all revisions of the model.
    """
    return api.post(f"{path_of('models', name)}:pin", service_body({"hosts": hosts, "expires": expires}))


@model.command("unpin")
@click.argument("name", shell_complete=complete(("models", "name")))
@only_hosts_option
@expires_option
@submits_operations
def unpin_model(api: Api, name: str, hosts: tuple[str, ...], expires: timedelta | None) -> Any:
    """Undo the pin of a model, by default on every live host that has it."""
    return api.post(f"{path_of('models', name)}:unpin", service_body({"hosts": hosts, "expires": expires}))


@model.command("prune")
@only_hosts_option
@click.option("--all", "every", is_flag=True, help="All that nothing uses, however much disk is free.")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed, and why the others are kept.")
@expires_option
@wait_option
@timeout_option
@output_option
@calls_the_api
def prune_models(
    api: Api,
    hosts: tuple[str, ...],
    every: bool,
    dry_run: bool,
    expires: timedelta | None,
    wait: bool,
    timeout: timedelta | None,
    output: Format,
) -> int:
    """Remove fetched models that nothing uses, the least recently used first, until enough disk is free.

    Hosts do that by themselves below `host.model_collect_below`. A model that is pinned, mounted by an engine or used
    by an operation is kept, and so is a fetch that was interrupted less than a day ago, except with --all.
    """
    from aima_api.cli.progress.watcher import ended_records, show_submitted

    body = {"hosts": hosts, "all": every or None, "dry_run": dry_run or None, "expires": expires}
    reply = api.post("/v1/models:prune", service_body(body))
    if not dry_run or not reply["operations"]:
        return show_submitted(api, reply, wait=wait, timeout=timeout, output=output)
    code, records = ended_records(api, reply["operations"], timeout=timeout)
    if output != "table":
        print_data(records, output)
        return code
    rows = [entry | {"host": record["host"]} for record in records for entry in record["collection"] or ()]
    print_records(rows, titled("model", "host", "revision", "frees", "last_used", "kept"), row=_collection_row)
    for record in records:
        click.echo(sanitized(record["reason"]), err=True)
    return code


def _show_catalog(status: dict[str, Any], output: Format) -> int:
    """Exits with the code of CatalogMistake if newer files are not in force."""
    from aima_core.errors import CatalogMistake

    if output != "table":
        print_data(status, output)
    else:
        numbers = [counted(status[f"{each}s"], each) for each in ("engine", "model", "profile")]
        overlay = f"; overlay: {sanitized(status['overlay'])}" if status["overlay"] else ""
        click.echo(f"Catalog: {', '.join(numbers)}{overlay}.")
        if status["mistakes"]:
            click.echo("Newer files are not in force:", err=True)
            click.echo(indented(sanitized_lines(status["mistakes"])), err=True)
    return CatalogMistake.exit_code if status["mistakes"] else 0


def _files_below(root: Path) -> int:
    return len([*root.rglob("*.yaml"), *root.rglob("*.yml")]) if root.is_dir() else 1


def _engine_row(engine: dict[str, Any]) -> dict[str, Any]:
    return _readable(engine | engine["requires"])


def _model_row(model: dict[str, Any]) -> dict[str, Any]:
    """Of many hosts, the first and the number of the others; an API node of an earlier version names none."""
    services = model.get("services", {})
    able = dict.fromkeys(host for each in services.values() for host in each["hosts"])
    return {
        **_readable(model),
        "service": list(services),
        "files_on": _shortened(model.get("files", [])),
        "could_run_on": _shortened(list(able)),
    }


def _stored_row(model: dict[str, Any]) -> dict[str, Any]:
    from aima_core.domain.units import format_size

    model = {**model, "last_used": _last_used(model)}
    if model["where"] == "path":
        return {**model, "model": model["model"] or model["name"], "state": "by hand", "revision": None, "size": None}
    state = "verified" if model["verified"] else "changed since"
    if not model["published"]:
        state = f"{model['received'] / (model['size'] or 1):.0%} fetched"
    state += ", pinned" if model.get("pinned") else ""
    return {**model, "size": format_size(model["size"]), "state": state, "revision": model["revision"][:12]}


def _collection_row(entry: dict[str, Any]) -> dict[str, Any]:
    from aima_core.domain.units import format_size

    freed, revision = entry["freed"], entry["revision"][:12]
    frees = None if freed is None else format_size(freed)
    return {**entry, "revision": revision, "frees": frees, "last_used": _last_used(entry)}


def _last_used(model: dict[str, Any]) -> str | None:
    """An API node of an earlier version names no time."""
    return "now" if model.get("used_by") else age(model.get("used_at"))


def _model_fields(model: dict[str, Any]) -> dict[str, Any]:
    fields = _readable(model) | {"files_on": model.get("files")}
    services = model.get("services", {}).items()
    fields["services"] = "\n".join(
        f"{id} with {each['engine']}: {', '.join(each['hosts']) or 'no live host'} could run it now"
        for id, each in services
    )
    return {name: value for name, value in fields.items() if name != "files"}


def _shortened(hosts: list[str]) -> str:
    return ", ".join([*hosts[:MOST_HOSTS], *([f"{len(hosts) - MOST_HOSTS} more"] if len(hosts) > MOST_HOSTS else [])])


def _readable(entry: dict[str, Any]) -> dict[str, Any]:
    """Commands as a shell takes them, sizes with a unit for people, and arguments as --set takes them."""
    from aima_core.domain.units import format_size

    readable: dict[str, Any] = {}
    for name, value in entry.items():
        if name == "command":
            readable[name] = shlex.join(value)
        elif name == "arguments":
            readable[name] = {
                each: str(given).lower() if isinstance(given, bool) else given for each, given in value.items()
            }
        elif isinstance(value, dict):
            readable[name] = _readable(value)
        else:
            is_size = isinstance(value, str) and re.fullmatch(r"\d+B", value)
            readable[name] = format_size(int(value[:-1])) if is_size else value
            if (name, value) == ("size", "0B"):
                readable[name] = "unresolved"
    return readable
