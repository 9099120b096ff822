"""What of a request's target and headers is passed on, and what ends at this hop. Pure."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from multidict import CIMultiDict, CIMultiDictProxy

from aima_core.system.engine_connections import HeaderPairs
from aima_core.trust.gateways import OF_DATAPLANE

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_OF_REQUESTS = _HOP_BY_HOP | {"authorization", "content-length", "expect", "host"}
_OF_ANSWERS = _HOP_BY_HOP | {OF_DATAPLANE.lower()}


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
    return decoded not in (b".", b"..") and not any(each in b"/\\" or each < 0x20 for each in decoded)


def forwarded_request(headers: CIMultiDictProxy[str], raw: HeaderPairs) -> HeaderPairs:
    """Without the token, which no engine sees, and without the length, which follows from the body."""
    left_out = {name.encode(errors="surrogateescape") for name in _OF_REQUESTS | _named(headers)}
    return [header for header in raw if header[0].lower() not in left_out]


def forwarded_answer(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """With the length, which frames the body."""
    left_out = _OF_ANSWERS | (_named(headers) - {"content-length"})
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in left_out)


def _named(headers: CIMultiDictProxy[str]) -> set[str]:
    """By `Connection`, as of this hop only."""
    return {name.strip().lower() for value in headers.getall("Connection", ()) for name in value.split(",")}
