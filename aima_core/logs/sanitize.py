"""Sanitizes foreign text: control characters and escape sequences reach no terminal, log or page.

Imported by the process supervisor under `python -S`: the standard library only.
"""

import re
from collections.abc import MutableMapping
from typing import Any

_ESCAPE_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours and cursor moves
    r"|\x9b[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # titles, links, clipboard
    r"|\x1b[ -/]*[0-~]"
)
# Direction overrides and line separators are not control characters by category, but mislead a reader as well.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def sanitized(text: object) -> str:
    """Replaces what moves a cursor, starts an escape sequence or reverses a line; tabs become spaces."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(text)).expandtabs(4)


def sanitized_lines(text: object) -> str:
    """The same for a text of several lines."""
    return "\n".join(map(sanitized, str(text).split("\n")))


def sanitized_event(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog: the values of a log event may be what another writer put into Redis."""
    return {name: _plain(value) for name, value in event.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return sanitized_lines(value)
    return value if value is None or isinstance(value, int | float) else sanitized_lines(value)


def json_sanitized(text: str) -> str:
    """JSON text with its control characters escaped; only line ends stay."""
    return _CONTROL.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def sanitized_line(raw: bytes) -> str:
    """What a terminal would show of a log line: without escape sequences and control characters, valid UTF-8."""
    text = _ESCAPE_SEQUENCE.sub("", raw.decode("utf-8", "replace"))
    # A progress bar repaints itself with carriage returns: the last painting counts.
    return _CONTROL.sub("", text.rstrip("\r").rpartition("\r")[2])
