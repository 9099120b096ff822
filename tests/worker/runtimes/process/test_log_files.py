"""A rotated log reads as one, for followers and for a tail."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread

import pytest

from aima_worker.runtimes.process.files import LogWriter, older
from aima_worker.runtimes.process.streams import ProcessLogs

A_THOUSAND_LINES_OR_SO = 40_000


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def writer(log: Path) -> Iterator[LogWriter]:
    writer = LogWriter(log, file_limit=A_THOUSAND_LINES_OR_SO)
    yield writer
    writer.close()


def numbered(first: int, last: int) -> list[str]:
    return [f"line {number}" for number in range(first, last + 1)]


def read(log: Path, *, tail: int | None = None, since: datetime | None = None) -> list[str]:
    with ProcessLogs(log, has_ended=lambda: True, follow=False, tail=tail, since=since) as lines:
        return [line.text for line in lines]


def test_a_log_takes_at_most_two_files(log: Path, writer: LogWriter) -> None:
    for number in range(5000):
        writer.write("stdout", [f"line {number}"])

    assert sorted(log.parent.iterdir()) == [log, older(log)]
    assert log.stat().st_size + older(log).stat().st_size < 2 * A_THOUSAND_LINES_OR_SO + 100


def test_both_files_are_read_as_one_log(log: Path, writer: LogWriter) -> None:
    for line in numbered(1, 1500):
        writer.write("stdout", [line])

    assert older(log).exists()
    assert read(log) == numbered(1, 1500)


@pytest.mark.parametrize("tail", [0, 1, 10, 1400, 5000])
def test_a_tail_extends_into_the_older_file(log: Path, writer: LogWriter, tail: int) -> None:
    for line in numbered(1, 1500):
        writer.write("stdout", [line])

    assert read(log, tail=tail) == numbered(max(1, 1501 - tail), 1500)


def test_since_applies_to_the_older_file_too(log: Path, writer: LogWriter) -> None:
    writer.write("stdout", ["before"])
    now = datetime.now(UTC)
    for line in numbered(1, 1500):
        writer.write("stdout", [line])

    assert read(log, since=now) == numbered(1, 1500)


def test_a_follower_misses_no_line_when_the_log_is_rotated(log: Path, writer: LogWriter) -> None:
    ended = Event()
    received: list[str] = []
    with ProcessLogs(log, has_ended=ended.is_set, follow=True, tail=None, since=None) as lines:
        reader = Thread(target=lambda: received.extend(line.text for line in lines))
        reader.start()

        for line in numbered(1, 1500):
            writer.write("stderr", [line])
        ended.set()
        reader.join(10)

    assert received == numbered(1, 1500)
