"""The tail of one container with a scripted clock and runtime."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from lab.parts import eventually

from aima_core.logs.protocol import LogBatch, LogLine
from aima_worker.logs.buffer import LAST_LINES, LogBuffer
from aima_worker.logs.tail import LAG_LIMIT, Tail
from aima_worker.runtime import Container, Status
from aima_worker.runtimes.fake.runtime import FakeRuntime

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
CONTAINER = Container(id="1", name="busy", status=Status.RUNNING, labels={}, image="tiny:1", started_at=BEGINNING)


class TooFast(FakeRuntime):
    """A runtime whose log takes two seconds to read per second of output; the last lines are read at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def logs(self, _: str, *, tail: int | None = None, **__: Any) -> Any:
        return _Lines(self, newest_only=tail == LAST_LINES and self.now > 0)


class _Lines:
    def __init__(self, runtime: TooFast, *, newest_only: bool) -> None:
        self._runtime = runtime
        self._newest_only = newest_only

    def __iter__(self) -> Iterator[LogLine]:
        if self._newest_only:
            yield LogLine(at=BEGINNING + timedelta(seconds=self._runtime.now), stream="stdout", text="newest")
            return
        for number in range(100_000):
            self._runtime.now += 0.002
            yield LogLine(at=BEGINNING + timedelta(seconds=0.001 * number), stream="stdout", text=f"line {number}")

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_lines_written_faster_than_they_can_be_read_are_skipped_and_counted() -> None:
    runtime = TooFast()
    buffer = LogBuffer(follow_ttl=timedelta(days=1), on_change=lambda: None, clock=lambda: runtime.now)
    watched_since = BEGINNING - timedelta(days=1)
    tail = Tail(runtime, "busy", buffer=buffer, watched_since=watched_since, clock=lambda: runtime.now)
    buffer.follow()
    tail.attach(CONTAINER)
    assert eventually(lambda: buffer.ended)

    batch = buffer.take_batch()

    assert isinstance(batch, LogBatch)
    assert batch.lines[-1].text == "newest"
    assert LAG_LIMIT.total_seconds() <= batch.skipped < LAG_LIMIT.total_seconds() + 1
    assert batch.next < 100_000
