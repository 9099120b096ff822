"""`aima engine …`, `aima model …` and `aima image …`"""

from __future__ import annotations

import dataclasses
import re
import shlex
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from aima_api.cli.options import (
    calls_the_api,
    complete,
    engine_option,
    expires_option,
    only_hosts_option,
    output_option,
    route_option,
    service_body,
    submits_operations,
)
from aima_api.cli.tables import Format, indented, print_data, print_record, print_records, titled
from aima_api.client import Api, path_of
from aima_core.domain.units import counted

engine = click.Group("engine", help="Show and validate the engines of the catalog.")
model = click.Group("model", help="Show the models of the catalog.")
image = click.Group("image", help="Pull images before they are needed.")


@engine.command("list")
@output_option
@calls_the_api
def list_engines(api: Api, output: Format) -> None:
    """List the engines."""
    engines = api.every("/v1/engines")
    columns = {"ENGINE": "name", **titled("type", "image", "platforms", "accelerator")}
    nothing = "No engines in the catalog."
    print_records(engines, columns, output, row=lambda engine: {**engine, **engine["requires"]}, nothing=nothing)


@engine.command("show")
@click.argument("name", shell_complete=complete("engines", "name"))
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


@model.command("list")
@output_option
@calls_the_api
def list_models(api: Api, output: Format) -> None:
    """List the models."""
    columns = {"MODEL": "name", **titled("type", "size", "engines")}
    print_records(api.every("/v1/models"), columns, output, row=_readable, nothing="No models in the catalog.")


@model.command("show")
@click.argument("name", shell_complete=complete("models", "name"))
@output_option
@calls_the_api
def show_model(api: Api, name: str, output: Format) -> None:
    """Show one model."""
    print_record(api.get(path_of("models", name)), output, row=_readable)


@image.command()
@click.argument("image", metavar="[IMAGE]", required=False)
@engine_option("The image of this engine.")
@only_hosts_option
@route_option("On every live host of this class, such as gb10.arm64.")
@expires_option
@submits_operations
def pull(
    api: Api,
    image: str | None,
    engine: str | None,
    hosts: tuple[str, ...],
    route: str | None,
    expires: timedelta | None,
) -> Any:
    """Pull IMAGE, or the image of an engine, on several hosts in parallel.

    Without --host or --route, an engine's image is pulled on every live host that can run the engine, and another
    IMAGE on the only live host. If one of the given hosts cannot have it, nothing is pulled.
    """
    if (image is None) == (engine is None):
        raise click.UsageError("Specify IMAGE or --engine.", click.get_current_context())
    if hosts and route:
        raise click.UsageError("Specify --host or --route.", click.get_current_context())
    body = service_body({"image": image, "engine": engine, "hosts": hosts, "route": route, "expires": expires})
    return api.post("/v1/images:pull", body)


def _files_below(root: Path) -> int:
    return len([*root.rglob("*.yaml"), *root.rglob("*.yml")]) if root.is_dir() else 1


def _readable(entry: dict[str, Any]) -> dict[str, Any]:
    """Commands as a shell takes them, and sizes with a unit for people instead of bytes."""
    command = {"command": shlex.join(entry["command"])} if entry.get("command") else {}
    return {name: _size(value) for name, value in (entry | command).items()}


def _size(value: Any) -> Any:
    from aima_core.domain.units import format_size

    if isinstance(value, dict):
        return {name: _size(each) for name, each in value.items()}
    return format_size(int(value[:-1])) if isinstance(value, str) and re.fullmatch(r"\d+B", value) else value
