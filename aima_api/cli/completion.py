"""Ids completed by the shell from what the API knows; quietly nothing when it is away or slow."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta

import click

PATIENCE = timedelta(seconds=1)

Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def complete(collection: str, field: str) -> Completer:
    """A completer over one field of a collection's records, or over the texts in a field that is a list."""

    def ids(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        known = _known(_url_of(ctx), collection, field)
        return [each for each in known if each.startswith(incomplete) and each.isprintable()]

    return ids


def _known(url: str, collection: str, field: str) -> list[str]:
    from aima_api.cli.errors import ApiError
    from aima_api.client import Api, path_of
    from aima_core.errors import AimaError

    try:
        with Api(url, key=os.environ.get("AIMA_KEY"), answers_within=PATIENCE) as api:
            values = [item[field] for item in api.every(path_of(collection), at_most=1000)]
    except (AimaError, ApiError):
        return []
    texts = (text for value in values for text in (value if isinstance(value, list) else [value]))
    return list(dict.fromkeys(map(str, texts)))


def _url_of(ctx: click.Context) -> str:
    # While completing, no command runs, so that nobody has set ctx.obj.
    from aima_api.cli.main import DEFAULT_URL

    return str(ctx.params.get("url") or ctx.find_root().params.get("url") or DEFAULT_URL)
