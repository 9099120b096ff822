"""The log of one engine of the fake runtime. One thread iterates it, any may close it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from threading import Condition
from typing import Self

from aima_worker.runtime import LogLine
from aima_worker.runtimes.fake.engine import FakeEngine


class FakeLogs:
    """A LogStream."""

    def __init__(
        self,
        engine: FakeEngine | None,
        changed: Condition,
        *,
        follow: bool,
        tail: int | None,
        since: datetime | None,
    ) -> None:
        self._engine = engine
        self._changed = changed
        self._follow = follow
        self._tail = tail
        self._since = since
        self._closed = False

    def __iter__(self) -> Iterator[LogLine]:
        if self._engine is None or self._closed:
            return
        with self._changed:
            said = list(self._engine.lines())
        first = [line for line in said if self._since is None or line.at >= self._since]
        yield from first if self._tail is None else first[max(len(first) - self._tail, 0) :]
        read = len(said)
        while self._follow and (more := self._wait_for_more(self._engine, read)):
            read += len(more)
            yield from more

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _wait_for_more(self, engine: FakeEngine, read: int) -> list[LogLine]:
        """What was said after the first `read` lines; nothing once the engine has ended or this is closed."""
        rhythm = engine.manners.counts.total_seconds() if engine.manners.counts else None
        with self._changed:
            while not self._closed:
                more = engine.lines()[read:]
                if more or not engine.running:
                    return more
                self._changed.wait(rhythm)
        return []
