"""The options that specify a service, and the request bodies that they become."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from aima_api.cli.options import (
    Assignment,
    Command,
    Decorator,
    SecretReference,
    Variable,
    complete,
    engine_option,
    hosts_option,
    route_option,
)


def _assignments(option: str, field: str, text: str) -> Decorator:
    return click.option(option, field, multiple=True, type=Assignment(), metavar="NAME=VALUE", help=text)


_MODEL_HELP = "Model of the catalog; omit to derive it from the id."
_SERVICE_OPTIONS = (
    engine_option("Engine of the catalog; omit to derive it from the id."),
    click.option("--model", metavar="M", shell_complete=complete(("models", "name")), help=_MODEL_HELP),
    click.option("--model-path", metavar="P", help="Directory of the weights on the hosts."),
    hosts_option("Run on this host; repeat for several."),
    route_option("Run on hosts of this class only, such as gb10.arm64."),
    click.option("--replicas", type=click.IntRange(1, 1000), metavar="N", help="Number of hosts to run on."),
    click.option(
        "--port", type=click.IntRange(1, 65535), metavar="P", help="Port on the host. Omit --port to have one chosen."
    ),
    click.option(
        "--expose/--no-expose", default=None, help="Publish the port on the host's address, beside the gateway's way."
    ),
    click.option(
        "--pull", type=click.Choice(["missing", "always", "never"]), help="When to pull the image; as the engine says."
    ),
    click.option(
        "--set",
        "arguments",
        multiple=True,
        type=Assignment(),
        metavar="ARG=VALUE",
        help="Set an argument of the engine; repeat for several.",
    ),
    click.option(
        "--env",
        "environment",
        multiple=True,
        type=Variable(),
        metavar="NAME=VALUE",
        help="Set a variable of the engine, stored in clear text; repeat for several.",
    ),
    click.option(
        "--secret",
        "secrets",
        multiple=True,
        type=SecretReference(),
        metavar="NAME[=ENTRY]",
        help="Give the engine a secret that its host holds; repeat for several.",
    ),
    _assignments("--resource", "resources", "Require a resource of the host, such as memory=8GB or gpus=1."),
    _assignments("--limit", "limits", "Limit the container, such as memory=8GB or cores=4."),
    _assignments("--health", "health", "Set how long it may load: timeout=5m without a log line, at_most=1h in all."),
    click.option("--priority", type=click.IntRange(-100, 100), metavar="N", help="Of starts that wait, higher first."),
    _assignments("--label", "labels", "Set a label of the service; repeat for several."),
)
_MAPS = {"arguments", "environment", "secrets", "resources", "limits", "health", "labels"}
_SECTIONS = {
    "set": "arguments",
    "env": "environment",
    "secret": "secrets",
    "resource": "resources",
    "limit": "limits",
    "label": "labels",
    "host": "hosts",
}
"""The fields whose option has another name."""


def service_options(command: Command) -> Command:
    """The options that specify a service; collected by `service_body`."""
    for option in reversed(_SERVICE_OPTIONS):
        command = option(command)
    return command


def service_body(options: dict[str, Any]) -> dict[str, Any]:
    """The request's fields for the options that were given."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    for name in given.keys() & {"expires", "grace"}:
        from aima_core.domain.units import format_duration

        given[name] = format_duration(given[name])
    given |= {name: dict(given[name]) for name in _MAPS & given.keys()}
    given |= {"labels": {name: str(value) for name, value in given["labels"].items()}} if "labels" in given else {}
    return given


def unset_body(fields: Iterable[str]) -> dict[str, Any]:
    """The merge patch that removes fields as options name them: `port`, `set.max-model-len`, `label.team`."""
    removed: dict[str, Any] = {}
    for each in fields:
        option, _, key = each.lstrip("-").partition(".")
        name = _SECTIONS.get(option, option.replace("-", "_"))
        if not key:
            removed[name] = None
        elif removed.get(name, {}) is not None:
            removed.setdefault(name, {})[key] = None
    return removed
