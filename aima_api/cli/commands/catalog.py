"""`aima engine …` and `aima model …`"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aima_api.cli.completion import complete
from aima_api.cli.options import calls_the_api, output_option
from aima_api.cli.tables import Format, print_data, print_record, print_records, sentence

if TYPE_CHECKING:
    from aima_api.client import Api


@click.group()
def engine() -> None:
    """Show and check the engines of the catalog."""


@click.group()
def model() -> None:
    """Show the models of the catalog."""


@engine.command("list")
@output_option
@calls_the_api
def list_engines(api: Api, output: Format) -> None:
    """List the engines."""
    engines = api.every("/v1/engines")
    rows = engines if output != "table" else [{**each, **each["requires"]} for each in engines]
    columns = {
        "ENGINE": "name",
        "TYPE": "type",
        "IMAGE": "image",
        "PLATFORMS": "platforms",
        "ACCELERATOR": "accelerator",
    }
    print_records(rows, columns, output, nothing="The catalog has no engine.")


@engine.command("show")
@click.argument("name", shell_complete=complete("engines", "name"))
@output_option
@calls_the_api
def show_engine(api: Api, name: str, output: Format) -> None:
    """Show one engine."""
    print_record(api.get(_path("engines", name)), output)


@engine.command()
@click.argument("path", metavar="[PATH]", required=False, type=click.Path(exists=True, path_type=Path))
@output_option
def validate(path: Path | None, output: Format) -> int:
    """Check catalog files: those under PATH, or all that AIMA would read here."""
    from aima_api.catalog import loader
    from aima_core.errors import CatalogMistake

    places = [path] if path else _catalogs_in_force()
    mistakes = [each for place in places for each in loader.find_mistakes(place)]
    files = sum(_count(place) for place in places)
    if output != "table":
        told = [dataclasses.asdict(each) | {"file": str(each.file)} for each in mistakes]
        print_data({"files": files, "mistakes": told}, output)
    elif mistakes:
        for mistake in mistakes:
            click.echo(sentence(str(mistake)), err=True)
        click.echo(f"{_counted(len(mistakes), 'mistake')} in {_counted(files, 'file')}", err=True)
    else:
        click.echo(f"{_counted(files, 'file')}, all good")
    return CatalogMistake.exit_code if mistakes else 0


@model.command("list")
@output_option
@calls_the_api
def list_models(api: Api, output: Format) -> None:
    """List the models."""
    models = api.every("/v1/models")
    rows = models if output != "table" else [_sized(each) for each in models]
    columns = {"MODEL": "name", "TYPE": "type", "SIZE": "size", "ENGINES": "engines"}
    print_records(rows, columns, output, nothing="The catalog has no model.")


@model.command("show")
@click.argument("name", shell_complete=complete("models", "name"))
@output_option
@calls_the_api
def show_model(api: Api, name: str, output: Format) -> None:
    """Show one model."""
    record = api.get(_path("models", name))
    print_record(record if output != "table" else _sized(record), output)


def _path(*words: str) -> str:
    from aima_api.client import path_of

    return path_of(*words)


def _catalogs_in_force() -> list[Path]:
    from aima_api.catalog import loader
    from aima_core.settings import load_settings

    overlay = load_settings().api.catalog
    return [loader.SHIPPED, *([overlay] if overlay else [])]


def _count(place: Path) -> int:
    return len([*place.rglob("*.yaml"), *place.rglob("*.yml")]) if place.is_dir() else 1


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _sized(model: dict[str, Any]) -> dict[str, Any]:
    from aima_core.domain.units import format_size

    size = str(model["size"]).removesuffix("B")
    return {**model, "size": format_size(int(size)) if size.isdigit() else model["size"]}
