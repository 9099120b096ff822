"""`aima key …` and `aima audit`: API keys, the signing key of this machine's settings, and the audit log."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import click

from aima_api.cli.options import DurationType, ResourceGroup, calls_the_api, complete, output_option
from aima_api.cli.tables import Format, age, print_data, print_records, titled
from aima_api.client import Api, path_of
from aima_core.logs.sanitize import sanitized

POLL_INTERVAL = timedelta(seconds=1)
PAGE = 1000
_STEPS = """\
The new seed, for AIMA_SIGNING_KEY of the API nodes only:
  {seed}
Its public key:
  {public}

1. On all workers, gateways and API nodes, add the new public key to `trusted_keys`, and restart them.
2. On one API node after the other, set `signing_key` to the new seed, add the old public key to `retired_keys`, and
   restart it. The old public key: {old}.
3. When operations that the old key signed have ended, move the old public key from `trusted_keys` to `retired_keys` on
   the workers, and restart them. It then verifies stored records and labels, and no new order."""


@click.group(cls=ResourceGroup)
def key() -> None:
    """Create, list and revoke API keys, and rotate the signing key."""


@key.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(["read", "operate", "admin", "infer", "gateway"]),
    help="What it may do; operate includes read, and admin includes operate. Repeat for several.",
)
@click.option(
    "--expires", type=DurationType(), metavar="DURATION", help="Valid for this long, such as 90d; else forever."
)
@click.option(
    "--model", "models", multiple=True, metavar="M", help="Of infer: only this model, service or alias; repeatable."
)
@click.option("--requests-per-minute", type=click.IntRange(1), metavar="N", help="Of infer: at most N at each gateway.")
@click.option("--concurrent", type=click.IntRange(1), metavar="N", help="Of infer: at most N at once at each gateway.")
@output_option
@calls_the_api
def create(
    api: Api,
    name: str,
    scopes: tuple[str, ...],
    expires: timedelta | None,
    models: tuple[str, ...],
    requests_per_minute: int | None,
    concurrent: int | None,
    output: Format,
) -> None:
    """Create an API key. It is printed once: AIMA stores its digest only."""
    from aima_core.domain.units import format_duration

    body: dict[str, Any] = {"name": name, "scopes": scopes, "models": models}
    limits = {"requests_per_minute": requests_per_minute, "concurrent_requests": concurrent}
    body |= {limit: value for limit, value in limits.items() if value is not None}
    if expires is not None:
        body["expires"] = format_duration(expires)
    created = api.post("/v1/keys", body)
    if output != "table":
        print_data(created, output)
        return
    until = f"until {created['expires_at']}" if created["expires_at"] else "until it is revoked"
    click.echo(
        sanitized(f"Key {created['name']} ({created['id']}) is valid {until}. Keep it: it is not shown again."),
        err=True,
    )
    click.echo(sanitized(created["key"]))


@key.command("list")
@output_option
@calls_the_api
def list_keys(api: Api, output: Format) -> None:
    """List the API keys with their last use. Keys of the settings (`api.keys`) are not listed."""
    reply = api.get("/v1/keys")
    columns = titled("name", "id", "scopes", "models", "limits", "created", "created_by", "expires", "last_used")
    print_records(reply["items"], columns, output, row=_row, nothing="No keys. Create one with `aima key create`.")
    if reply["unverified"]:
        reasons = "forged, unreadable, or signed by a key that is not trusted"
        click.echo(f"{reply['unverified']} stored records were skipped: {reasons}.", err=True)


@key.command()
@click.argument("name", shell_complete=complete(("keys", "name")))
@calls_the_api
def revoke(api: Api, name: str) -> None:
    """Revoke an API key: all nodes refuse it within a second."""
    api.delete(path_of("keys", name))
    click.echo(f"Key {sanitized(name)} revoked.")


@key.command()
def public() -> None:
    """Print the public half of this machine's signing key, for `trusted_keys` of workers and gateways."""
    from aima_core.errors import BadSettings

    if (own := _public_key()) is None:
        raise BadSettings(detail="There is no signing key here.", where="AIMA_SIGNING_KEY: it is on the API nodes")
    click.echo(own)


@key.command("rotate-signing")
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True)
def rotate_signing(output: Format) -> None:
    """Print a new signing key and the steps to replace the current one without an interruption.

    Nothing is changed by this command.
    """
    import secrets

    from pydantic import SecretStr

    from aima_core.trust.keys import SigningKey

    seed = secrets.token_hex(32)
    new, old = SigningKey(SecretStr(seed)).public, _public_key()
    if output != "table":
        print_data({"signing_key": seed, "public_key": str(new), "old_public_key": old}, output)
        return
    click.echo(_STEPS.format(seed=seed, public=new, old=old or "`aima key public` on an API node prints it"))


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Print later entries as they come.")
@click.option("--key", metavar="NAME", shell_complete=complete(("keys", "name")), help="Only requests with this key.")
@click.option("--since", metavar="T", help="A duration before now, such as 10m, or a time with its zone.")
@click.option("--limit", type=click.IntRange(1, PAGE), default=100, show_default=True, metavar="N", help="The last N.")
@output_option
@calls_the_api
def audit(api: Api, follow: bool, key: str | None, since: str | None, limit: int, output: Format) -> None:
    """Show who did what, from where, when, and with which outcome.

    Lists every request that changed something or tried to, and the refused ones: equal refusals within a minute are one
    entry with their number.
    """
    filters = {"key": key, "since": since}
    page = api.get("/v1/audit", limit=PAGE if since else limit, **filters)
    entries = page["items"]
    while page["next"]:
        page = api.get("/v1/audit", limit=PAGE, cursor=page["next"], **filters)
        entries += page["items"]
    columns = titled("age", "key", "address", "request", "target", "outcome", "count")
    print_records(entries, columns, output, row=_entry_row, nothing="" if follow else "No entries.")
    while follow:
        time.sleep(POLL_INTERVAL.total_seconds())
        page = api.get("/v1/audit", limit=PAGE, cursor=page["last"], key=key)
        for entry in page["items"]:
            _print_entry(entry, output)


def _public_key() -> str | None:
    """Of the settings' signing key."""
    from aima_core.settings import load_settings
    from aima_core.trust.keys import SigningKey

    seed = load_settings().signing_key
    return None if seed is None else str(SigningKey(seed).public)


def _row(record: dict[str, Any]) -> dict[str, Any]:
    limits = {"/min": record.get("requests_per_minute"), " at once": record.get("concurrent_requests")}
    return {
        **record,
        "limits": [f"{most}{unit}" for unit, most in limits.items() if most],
        "created": age(record["created_at"]),
        "expires": record["expires_at"] or "never",
        "last_used": age(record["last_used_at"]) or "never",
    }


def _entry_row(entry: dict[str, Any]) -> dict[str, Any]:
    outcome = " ".join(str(each) for each in (entry["status"], entry["code"]) if each)
    request = f"{entry['method']} {entry['path']}"
    count = entry["count"] if entry["count"] != 1 else None
    return {**entry, "age": age(entry["at"]), "request": request, "outcome": outcome, "count": count}


def _print_entry(entry: dict[str, Any], output: Format) -> None:
    """A line of its own, since a table's widths are not known yet; JSON and YAML documents one after the other."""
    if output != "table":
        print_data([entry] if output == "yaml" else entry, output)
        return
    row = _entry_row(entry)
    parts = [entry["at"][:19], row["key"] or "-", row["address"], row["request"], row["target"], row["outcome"]]
    times = f"× {row['count']}" if row["count"] else None
    click.echo(sanitized("  ".join(part for part in (*parts, times) if part)))
