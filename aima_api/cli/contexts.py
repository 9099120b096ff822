"""Contexts: named sets of API nodes with their CA and key, in one file below the user's configuration directory.

The file is replaced atomically. It may hold keys, so that it has mode 0600 and is refused if others can read it. A
context's key is sent to the context's own URLs only, never to one from --url or AIMA_URL.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from aima_api.client import REPLY_TIMEOUT, Api, verifying

if TYPE_CHECKING:
    from aima_api.cli.gateway import Gateway

DEFAULT_URL = "http://127.0.0.1:7080"
GATEWAY_PORT = 7090


class ApiContext(NamedTuple):
    urls: tuple[str, ...]
    ca: str | None = None
    """Path of the certificates that the nodes' certificates are verified with."""
    key: str | None = None
    key_file: str | None = None

    def read_key(self) -> str | None:
        """Raises BadSettings if the key's file cannot be read."""
        if self.key_file is None:
            return self.key
        try:
            return Path(self.key_file).expanduser().read_text().strip()
        except (OSError, UnicodeDecodeError) as unreadable:
            raise _invalid(f"the key cannot be read: {unreadable}.", self.key_file) from unreadable


class StoredContexts(NamedTuple):
    current: str | None
    contexts: Mapping[str, ApiContext]


def contexts_file() -> Path:
    """Below XDG_CONFIG_HOME if that is absolute, else below ~/.config."""
    directory = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if not directory.is_absolute():
        directory = Path(os.environ.get("HOME") or "/") / ".config"
    return directory / "aima" / "contexts.json"


def load_contexts() -> StoredContexts:
    """Raises BadSettings if the file is malformed, or if others can read it."""
    file = contexts_file()
    try:
        mode, text = file.stat().st_mode, file.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return StoredContexts(None, {})
    except (OSError, UnicodeDecodeError) as unreadable:
        raise _invalid(f"{file} cannot be read: {unreadable}.", file) from unreadable
    if mode & 0o077:
        raise _invalid(f"{file} may hold keys, and others can access it.", f"that with `chmod 600 {file}`")
    try:
        stored = json.loads(text)
        contexts = {name: _parsed(fields) for name, fields in stored["contexts"].items()}
        if stored["current"] is not None and stored["current"] not in contexts:
            raise ValueError("the current context is missing")
        return StoredContexts(stored["current"], contexts)
    except (ValueError, KeyError, TypeError, AttributeError) as malformed:
        raise _invalid(f"{file} is not a file of contexts.", f"{file}, or remove it") from malformed


def save_contexts(stored: StoredContexts) -> None:
    from aima_core.system.state_dir import write_atomically

    file = contexts_file()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    contexts = {
        name: {field: value for field, value in context._asdict().items() if value is not None}
        for name, context in stored.contexts.items()
    }
    text = json.dumps({"current": stored.current, "contexts": contexts}, indent=2)
    write_atomically(file, text + "\n", mode=0o600)


def split_urls(text: str) -> tuple[str, ...]:
    """`http://a:7080,http://b:7080` as its URLs."""
    return tuple(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))


def open_api(urls: str | None, *, ca: str | None = None, reply_timeout: timedelta = REPLY_TIMEOUT) -> Api:
    """The client of these URLs, else of the current context, else of DEFAULT_URL.

    `ca` replaces a context's authority, and AIMA_KEY its key.

    Raises BadSettings, ApiUnavailable if a URL is malformed, Unauthorized if no API can have such a key.
    """
    context = _context_of(urls)
    key = os.environ.get("AIMA_KEY") or context.read_key()
    authority, addresses = ca or context.ca, context.urls or (DEFAULT_URL,)
    # None verifies with the system's authorities; plain HTTP should not pay for a context.
    tls = verifying(authority) if authority and any(url.startswith("https:") for url in addresses) else None
    nodes = [Api(url, key=key, tls=tls, reply_timeout=reply_timeout) for url in addresses]
    if len(nodes) == 1:
        return nodes[0]
    from aima_api.cli.nodes import ApiNodes

    return ApiNodes(nodes, note=_print_note)


def open_gateway(gateway: str | None, *, urls: str | None, ca: str | None = None) -> Gateway:
    """The client of that gateway, else of one beside the API node that `open_api` would ask.

    A context's key goes to the context's own machines only. Raises as `open_api` does, with GatewayUnavailable.
    """
    from aima_api.cli.gateway import Gateway

    context = _context_of(urls)
    url = gateway or _beside((context.urls or (DEFAULT_URL,))[0])
    key = os.environ.get("AIMA_KEY") or (None if gateway else context.read_key())
    authority = ca or context.ca
    return Gateway(url, key=key, tls=verifying(authority) if authority and url.startswith("https:") else None)


def _beside(api: str) -> str:
    """`http://127.0.0.1:7090` for `http://127.0.0.1:7080`."""
    parts = urlsplit(api)
    address = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{address}:{GATEWAY_PORT}"


def _context_of(urls: str | None) -> ApiContext:
    return ApiContext(split_urls(urls)) if urls else _current_context()


def _current_context() -> ApiContext:
    stored = load_contexts()
    if stored.current is None:
        return ApiContext((DEFAULT_URL,))
    return stored.contexts[stored.current]


def _parsed(fields: Mapping[str, Any]) -> ApiContext:
    context = ApiContext(**{**fields, "urls": tuple(fields["urls"])})
    texts = [*context.urls, *(value for value in context[1:] if value is not None)]
    if not context.urls or not all(isinstance(text, str) for text in texts):
        raise ValueError("malformed context")
    return context


def _print_note(text: str) -> None:
    import click

    from aima_core.logs.sanitize import sanitized

    click.echo(sanitized(text), err=True)


def _invalid(detail: str, where: object) -> Exception:
    from aima_core.errors import BadSettings

    return BadSettings(detail=detail, where=where)
