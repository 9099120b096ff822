"""Compares the keys in Redis with the table in `aima_core.redis.keys`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from redis import Redis

from aima_core.redis import keys

_ROW = re.compile(
    r"^(aima\S*(?:, aima\S*)*) +(string|hash|zset|set|list|stream|channel) +(\S.*?)  +(.+)$", re.MULTILINE
)
_CELERY_S = re.compile(r"aima:(unacked(_index|_mutex)?|_kombu\.binding.+|.*\.?pidbox)")
"""Celery's own keys, a constant number."""
_LASTS_WITH_ITS_OPERATION = re.compile(r"aima:(?:operation|log):(.+)")


class Documented(NamedTuple):
    pattern: re.Pattern[str]
    type: str
    expires: bool
    """Whether it has a TTL."""


def documented() -> list[Documented]:
    """The rows of the table; the text after a row's last semicolon says when its keys expire."""
    rows = [
        Documented(_matching(name), type, _expires(reported))
        for names, type, _, reported in _ROW.findall(keys.__doc__ or "")
        for name in names.split(", ")
    ]
    assert len(rows) > 20, "the table of keys is not written as it was"
    return rows


def odd_keys(redis: Redis) -> list[str]:
    """A sentence on each key that is not in the table, or that lacks its TTL."""
    rows, active = documented(), set(redis.zrange(keys.ACTIVE, 0, -1))
    return [why for key in sorted(redis.scan_iter(count=1000)) if (why := _against(redis, key, rows, active))]


def _against(redis: Redis, key: str, rows: list[Documented], active: set[str]) -> str | None:
    type, ttl = redis.type(key), redis.ttl(key)
    if type == "none" or _CELERY_S.fullmatch(key):
        return None
    fitting = [row for row in rows if row.pattern.fullmatch(key) and row.type == type]
    if not fitting:
        return f"{key}, a {type}, is not in the table of keys"
    of = _LASTS_WITH_ITS_OPERATION.fullmatch(key)
    if ttl == -1 and all(row.expires for row in fitting) and not (of and of[1] in active):
        return f"{key} has no expiry, and should have one"
    return None


def _expires(reported: str) -> bool:
    when = reported.rpartition(";")[2]
    return bool(re.match(r" ([A-Z_]+_TTL\b|(for )?seconds)", when))


def _matching(name: str) -> re.Pattern[str]:
    return re.compile("".join(_parts(name)))


def _parts(name: str) -> Iterator[str]:
    for part in re.split(r"(<\w+>)", name):
        yield "[^:]+" if part.startswith("<") else re.escape(part)
