"""The audit log: who did what, from where, when, with which outcome; in two capped streams and as log lines.

Entries are written in the background: an outage of Redis delays them and stops no request. Refused requests have a
stream of their own, with one entry a minute per address, key and reason, so that a flood of them evicts no other entry.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any, NamedTuple

import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from aima_core.errors import AimaError, InvalidRequest
from aima_core.redis import keys
from aima_core.redis.interface import TextRedis
from aima_core.redis.scripts import Scripts
from aima_core.system.background import BackgroundLoop

WINDOW = timedelta(minutes=1)
"""Equal refusals within it are one entry."""
MOST_WINDOWS = 100
"""Different refusals within a window; further ones are counted together, under the address `others`."""
MOST_UNWRITTEN = 10_000
"""Entries kept during an outage of Redis; the oldest are dropped first. Their log lines remain."""
MOST_IN_A_BATCH = 1000
RETRY_DELAY = timedelta(seconds=2)
SETTLE_DELAY = timedelta(milliseconds=20)
"""Entries within it are written in one round trip."""
STOP_TIMEOUT = timedelta(seconds=1)
OTHERS = "others"
_FIELD = "entry"
_START = "0-0"

_log = structlog.get_logger()


class AuditEntry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    at: AwareDatetime
    key: str | None = None
    """The name of the caller's key; None without a valid one."""
    key_id: str | None = None
    address: str
    method: str
    path: str
    target: str | None = None
    """What the request is about, where the path does not name it."""
    status: int
    code: str | None = None
    """Of the failure."""
    count: int = 1
    """Refusals like this one since the entry before."""


class AuditPage(NamedTuple):
    entries: list[AuditEntry]
    """In the order of time."""
    last: str
    """The cursor after the last entry."""
    more: bool


class _Stored(NamedTuple):
    ms: int
    stream: int
    number: int
    id: str
    entry: AuditEntry


class AuditLog:
    def __init__(self, redis: TextRedis, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._redis = redis
        self._run = Scripts(redis)
        self._now = now
        self._lock, self._writing = Lock(), Lock()
        self._unwritten: deque[tuple[str, str]] = deque(maxlen=MOST_UNWRITTEN)
        self._batch: list[tuple[str, str]] = []
        """Being written; kept until Redis has confirmed it."""
        self._windows: dict[tuple[str, str | None, str | None], AuditEntry] = {}
        self._window_began = now()
        self.loop = BackgroundLoop(
            "audit", self.write, interval=WINDOW, retry_delay=RETRY_DELAY, settle_delay=SETTLE_DELAY, immediately=False
        )

    def record(self, **fields: Any) -> None:
        """A request that was executed, or failed."""
        self._append(keys.AUDIT, AuditEntry(at=self._now(), **fields))

    def record_refusal(self, **fields: Any) -> None:
        """A refused request: the first of its kind in a window at once, the others as one entry when it closes."""
        if first := self._counted(AuditEntry(at=self._now(), **fields)):
            self._append(keys.AUDIT_REFUSED, first)

    def write(self) -> None:
        """Writes what is not written yet. Raises BrokerUnavailable; after a lost reply, entries may be duplicates."""
        with self._writing:  # race: a pass of the loop that has not ended when the node shuts down
            if self._now() - self._window_began >= WINDOW:
                self._close_window()
            while batch := self._next_batch():
                for stream in (keys.AUDIT, keys.AUDIT_REFUSED):
                    if entries := [entry for its, entry in batch if its == stream]:
                        self._run("audit/append", [stream], keys.AUDIT_CAP, json.dumps(entries))
                self._batch = []

    def close(self) -> None:
        """Stops the loop, and writes the rest if Redis answers."""
        self.loop.stop(within=STOP_TIMEOUT)
        self._close_window()
        with suppress(AimaError):
            self.write()

    def page(
        self, *, limit: int, after: str | None = None, since: datetime | None = None, key: str | None = None
    ) -> AuditPage:
        """The first entries after the cursor or since the moment; without either, the last ones.

        Raises InvalidRequest for a cursor that is none, BrokerUnavailable.
        """
        cursor = _cursor(after) if after else (_START, _START)
        stored = self._stored(cursor)
        found = [each for each in stored if key in (None, each.entry.key) and not (since and each.entry.at < since)]
        page = found[-limit:] if after is None and since is None else found[:limit]
        more = bool(page) and page[-1] is not found[-1]
        passed = {each.stream: each.id for each in stored if not more or each[:3] <= page[-1][:3]}
        last = ".".join(passed.get(stream, cursor[stream]) for stream in (0, 1))
        return AuditPage([each.entry for each in page], last, more)

    def _append(self, stream: str, entry: AuditEntry) -> None:
        _log.info("request audited", **entry.model_dump(exclude_defaults=True, exclude={"at"}))
        with self._lock:
            self._unwritten.append((stream, entry.model_dump_json(exclude_none=True)))
        self.loop.wake()

    def _counted(self, entry: AuditEntry) -> AuditEntry | None:
        """Counts the refusal in the window, and returns it if it is the first of its kind."""
        with self._lock:
            kind = (entry.address, entry.key, entry.code)
            if kind not in self._windows and len(self._windows) >= MOST_WINDOWS:
                kind = (OTHERS, None, None)
                entry = entry.model_copy(update={"address": OTHERS, "key": None, "key_id": None, "target": None})
            counted = self._windows.get(kind)
            self._windows[kind] = entry.model_copy(update={"count": counted.count + 1 if counted else 0})
        return None if counted else entry

    def _close_window(self) -> None:
        with self._lock:
            closed, self._windows, self._window_began = list(self._windows.values()), {}, self._now()
        for entry in closed:
            if entry.count:
                self._append(keys.AUDIT_REFUSED, entry)

    def _next_batch(self) -> list[tuple[str, str]]:
        if not self._batch:
            with self._lock:
                self._batch = [self._unwritten.popleft() for _ in range(min(MOST_IN_A_BATCH, len(self._unwritten)))]
        return self._batch

    def _stored(self, cursor: tuple[str, str]) -> list[_Stored]:
        found: list[_Stored] = []
        for stream, name in enumerate((keys.AUDIT, keys.AUDIT_REFUSED)):
            found += _readable(stream, self._redis.xrange(name, f"({cursor[stream]}", count=2 * keys.AUDIT_CAP))
        return sorted(found)


def _readable(stream: int, entries: Iterable[tuple[str, dict[str, str]]]) -> Iterable[_Stored]:
    for id, fields in entries:
        try:
            ms, number = _numbers(id)
            yield _Stored(ms, stream, number, id, AuditEntry.model_validate_json(fields[_FIELD]))
        except (KeyError, ValidationError):
            continue  # another writer's


def _cursor(text: str) -> tuple[str, str]:
    try:
        own, refused = text.split(".")
        _numbers(own), _numbers(refused)
    except ValueError as malformed:
        remedy = "Send the `last` of an earlier answer, or omit it."
        raise InvalidRequest(
            detail=f"`cursor`: {text[:100]!r} is no cursor of the audit log.", remedy=remedy
        ) from malformed
    return own, refused


def _numbers(id: str) -> tuple[int, int]:
    """Raises ValueError."""
    ms, _, count = id.partition("-")
    return int(ms), int(count)
