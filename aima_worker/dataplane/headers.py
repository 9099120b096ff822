"""What of a request's target and headers is passed on, and what ends at this hop. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from multidict import CIMultiDict

from aima_core.system.engine_connections import HeaderPairs
from aima_core.trust.gateways import OF_DATAPLANE

_SEPARATOR = re.compile(rb"[/\\\x00-\x1f]")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_OF_REQUESTS = _HOP_BY_HOP | {b"authorization", b"content-length", b"expect", b"host"}
_OF_ANSWERS = _HOP_BY_HOP | {OF_DATAPLANE}


class Path(NamedTuple):
    instance: str
    rest: str
    """The engine's path and query, as they were sent."""


def path_of(target: str) -> Path | None:
    """Of `/i/INSTANCE/REST`; None of any other request target, and of paths that lead out of REST."""
    if not target.isascii() or not target.isprintable() or "#" in target or "\\" in target:
        return None
    path, question_mark, query = target.partition("?")
    root, prefix, instance, *segments = [*path.split("/"), "", ""][: max(3, path.count("/") + 1)]
    if (root, prefix) != ("", "i") or not instance or not segments or not all(map(_is_plain, segments)):
        return None
    return Path(instance, f"/{'/'.join(segments)}{question_mark}{query}")


def _is_plain(segment: str) -> bool:
    """Whether it is one segment, and no parent, however often it is decoded."""
    decoded = unquote_to_bytes(segment)
    return decoded not in (b".", b"..") and _SEPARATOR.search(decoded) is None


def forwarded_request(headers: HeaderPairs) -> HeaderPairs:
    """Without the token, which no engine sees, and without the length, which follows from the body."""
    lower = [(name.lower(), value) for name, value in headers]
    left_out = _OF_REQUESTS | _named(lower)
    return [header for header in lower if header[0] not in left_out]


def forwarded_answer(headers: HeaderPairs) -> CIMultiDict[str]:
    """With the length, which frames the body. The names are in lower case."""
    left_out = _OF_ANSWERS | (_named(headers) - {b"content-length"})
    return CIMultiDict((_text(name), _text(value)) for name, value in headers if name not in left_out)


def _named(headers: HeaderPairs) -> set[bytes]:
    """By `Connection`, as of this hop only."""
    return {each.strip().lower() for name, value in headers if name == b"connection" for each in value.split(b",")}


def _text(header: bytes) -> str:
    return header.decode("utf-8", "surrogateescape")
